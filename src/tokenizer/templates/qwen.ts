/** Qwen's description of tools, after the system message; both generations have it. */
const TOOLS = String.raw`    {{- '# Tools\n\nYou may call one or more functions to assist with the user query.\n\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' + tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within ' }}
    {{- '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": ' }}
    {{- '<args-json-object>}\n</tool_call><|im_end|>\n' }}`;

/** One call of a tool. */
const CALL = String.raw`        {%- set call = tool_call %}
            {%- if tool_call['function'] %}
                {%- set call = tool_call['function'] %}
            {%- endif %}
            {{- '<tool_call>\n{"name": "' + call['name'] + '", "arguments": ' }}
            {{- call['arguments'] if call['arguments'] is string else call['arguments'] | tojson }}
            {{- '}\n</tool_call>' }}`;

/** Results of tools: those that follow one another share a user's turn. */
const RESULTS = String.raw`    {%- elif message['role'] == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + message['content'] + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}`;

/** Qwen2.5: ChatML with a system message of its own where there is none, and tools. */
export const qwen25 = (system: string): string => String.raw`{%- set system = ${system} %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
{%- endif %}
{{- '<|im_start|>system\n' + system }}
{%- if tools %}
    {{- '\n\n' }}
${TOOLS}
{%- else %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' and message['tool_calls'] %}
        {{- '<|im_start|>assistant' }}
        {%- if message['content'] %}
            {{- '\n' + message['content'] }}
        {%- endif %}
        {%- for tool_call in message['tool_calls'] %}
            {{- '\n' }}
    ${CALL}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
${RESULTS}
    {%- elif message['role'] != 'system' or not loop.first %}
        {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}`;

/**
 * Qwen3: as Qwen2.5, without a system message of its own. What the model thought stands in `<think>` before its answer,
 * in the turns after the last question only; with `enable_thinking=false` the generation prompt closes it at once.
 */
export const qwen3 = String.raw`{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] + '\n\n' }}
    {%- endif %}
${TOOLS}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- set last = namespace(question=messages | length - 1) %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- if not (message['content'].startswith('<tool_response>') and message['content'].endswith('</tool_response>')) %}
            {%- set last.question = loop.index0 %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {%- set content = message['content'] if message['content'] is string else '' %}
        {%- set thought = '' %}
        {%- if message['reasoning_content'] is string %}
            {%- set thought = message['reasoning_content'] %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > last.question and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for tool_call in message['tool_calls'] or [] %}
            {%- if content or not loop.first %}
                {{- '\n' }}
            {%- endif %}
    ${CALL}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
${RESULTS}
    {%- elif message['role'] != 'system' or not loop.first %}
        {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}`;
