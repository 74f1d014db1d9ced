import { refuseTools } from "./refuse-tools.ts";

/** OpenAI's ChatML: `<|im_start|>role\ncontent<|im_end|>\n` a message. */
export const chatml = String.raw`${refuseTools("chatml")}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}`;
