import { refuseTools } from "./refuse-tools.ts";

/** Llama 3 (Meta's model card): `<|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>` a message. */
export const llama3 = String.raw`${refuseTools("llama-3")}
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}`;

/**
 * Llama 3.1 to 3.3: there is always a system message, with dates; tools go into the first user's message, calls are JSON,
 * and their results come from "ipython". Variables: `date_string`.
 */
export const llama31 = String.raw`{{- bos_token }}
{%- set system = '' %}
{%- set turns = messages %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools %}
    {{- 'Environment: ipython\n' }}
{%- endif %}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' }}
{{- date_string if date_string is defined else '26 Jul 2024' }}
{{- '\n\n' + system + '<|eot_id|>' }}
{%- for message in turns %}
    {%- if message['tool_calls'] %}
        {%- if message['tool_calls'] | length != 1 %}
            {{- raise_exception('Llama 3.1 makes one tool call at a time') }}
        {%- endif %}
        {%- set call = message['tool_calls'][0] %}
        {%- if call['function'] %}
            {%- set call = call['function'] %}
        {%- endif %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call['name'] + '", "parameters": ' }}
        {{- call['arguments'] if call['arguments'] is string else call['arguments'] | tojson }}
        {{- '}<|eot_id|>' }}
    {%- elif message['role'] == 'tool' or message['role'] == 'ipython' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message['content'] | tojson + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {%- if tools and loop.first %}
            {{- 'Given the following functions, please respond with a JSON for a function call with its proper arguments ' }}
            {{- 'that best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": ' }}
            {{- 'dictionary of argument name and its value}.Do not use variables.\n\n' }}
            {%- for tool in tools %}
                {{- tool | tojson(indent=4) + '\n\n' }}
            {%- endfor %}
        {%- endif %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}`;
