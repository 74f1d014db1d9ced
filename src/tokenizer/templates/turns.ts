import { refuseTools } from "./refuse-tools.ts";

/** Takes the system message, if the first is one, off `messages`: `system` and `turns`. */
const SYSTEM_FIRST = (system: string): string => `{%- set system = ${system} %}
{%- set turns = messages %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- endif %}`;

const REFUSE_OTHERS = `    {%- else %}
        {{- raise_exception('a role is ' + message['role'] + '; it can be system (first only), user or assistant') }}
    {%- endif %}`;

/** Gemma 1 and 2: the assistant is "model"; there is no system role, so that message opens the first user's turn. */
export const gemma2 = String.raw`${refuseTools("gemma-2")}
{{- bos_token }}
${SYSTEM_FIRST("''")}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Gemma wants user and assistant to take turns, the user first') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
    {%- if loop.first and system %}
        {{- system | trim + '\n\n' }}
    {%- endif %}
    {{- message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}`;

/** Mistral's instruct format, version 3 (7B Instruct v0.3); the system message opens the first user's turn. */
export const mistral = String.raw`${refuseTools("mistral")}
{{- bos_token }}
${SYSTEM_FIRST("''")}
{%- for message in turns %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system + '\n\n' if loop.first and system else '') + message['content'] + '[/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] | trim + eos_token }}
${REFUSE_OTHERS}
{%- endfor %}`;

/** Phi-3 and 3.5: `<|role|>`, a line end, content and `<|end|>`, a line end, for each message. */
export const phi3 = String.raw`${refuseTools("phi-3")}
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}`;

/** Zephyr: as Phi-3, with EOS for `<|end|>`. */
export const zephyr = String.raw`${refuseTools("zephyr")}
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}`;

/** Stanford Alpaca's prompt for instructions without input, further turns in the same way. */
export const alpaca = (system: string): string => String.raw`${refuseTools("alpaca")}
{{- bos_token }}
${SYSTEM_FIRST(system)}
{{- system + '\n\n' }}
{%- for message in turns %}
    {%- if message['role'] == 'user' %}
        {{- '### Instruction:\n' + message['content'] + '\n\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '### Response:\n' + message['content'] + eos_token + '\n\n' }}
${REFUSE_OTHERS}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### Response:\n' }}
{%- endif %}`;

/** Vicuna 1.1 to 1.5 (FastChat): all on one line, each answer ended by EOS. */
export const vicuna = (system: string): string => `${refuseTools("vicuna")}
{{- bos_token }}
${SYSTEM_FIRST(system)}
{{- system + ' ' }}
{%- for message in turns %}
    {%- if message['role'] == 'user' %}
        {{- 'USER: ' + message['content'] + ' ' }}
    {%- elif message['role'] == 'assistant' %}
        {{- 'ASSISTANT: ' + message['content'] + eos_token }}
${REFUSE_OTHERS}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'ASSISTANT:' }}
{%- endif %}`;
