/** For formats that have no way to write tools, their calls and their results: leaving them out would train on nonsense. */
export const refuseTools = (name: string): string => `{%- set uses = namespace(tools=tools) %}
{%- for message in messages %}
    {%- if message['tool_calls'] or message['role'] == 'tool' %}
        {%- set uses.tools = true %}
    {%- endif %}
{%- endfor %}
{%- if uses.tools %}
    {{- raise_exception('the ${name} template cannot write tools; qwen-2.5 and llama-3.1 can') }}
{%- endif %}`;
