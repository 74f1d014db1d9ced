"""Writes tests/fixtures/tokenizer/chat: chat templates in the styles models use, and what transformers renders.

Run from the repository root after make_tokenizers.py, with transformers 5.23.0 and jinja2 3.1.6:
    python tests/oracle/tokenizer/make_chats.py

expected.json: [{template, messages, options, text | error}], and for templates with {% generation %} blocks ids and
assistant mask under the qwen2 tokenizer.
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

OUT = Path("tests/fixtures/tokenizer/chat")
SPECIAL = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

TEMPLATES = {
    # Plain ChatML with a default system message.
    "chatml": """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
Be brief.<|im_end|>
{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    # The same, marked.
    "chatml_generation": """{%- for message in messages %}
{%- if message.role == 'assistant' %}
    {{- '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    # Whitespace rules around generation tags of every kind, and a variable set inside one.
    "whitespace": """
  {% for message in messages %}
    {{ message.role }}:
    {% if message.role == 'assistant' %}
      {%- generation -%}
        [{{ message.content }}]
      {%- endgeneration -%}
      tail
  {% generation %}
    {% set inner = message.content | upper %}
    {{ inner }}
  {% endgeneration %}
      {{ 'leaked' if inner is defined else 'scoped' }} {# a comment #}
    {% else %}
  	{{- message.content -}}
    {% endif %}
  {% endfor %}

end
""",
    # Reasoning left out of old turns, tools, tool calls and tool results: Qwen3's way.
    "reasoning": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thoughts) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if call.function %}{%- set call = call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
                {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<r>\\n' + content + '\\n</r>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    # Turns without headers; an open <think> in the prompt only: DeepSeek-R1's way.
    "open_think": """{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '<U>' + message.content }}\
{% elif message.role == 'assistant' %}{% set content = message.content %}{% if '</think>' in content %}\
{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<A>' + content + eos_token }}{% else %}\
{{ message.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<A><think>\\n' }}{% endif %}""",
    # Strict roles and a merged system message: Llama-2's and Mistral's way.
    "strict": """{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}\
{% set rest = messages[1:] %}{% else %}{% set system = none %}{% set rest = messages %}{% endif %}\
{% for message in rest %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate: user, assistant, ...') }}{% endif %}{% if message.role == 'user' %}\
[INST] {% if loop.first and system is not none %}{{ '<<S>>' + system + '<</S>> ' }}{% endif %}{{ message.content.strip() }} [/INST]\
{% else %} {{ message.content | trim }}{{ eos_token }}{% endif %}{% endfor %}""",
    # Content as a list of parts, a macro, filters, slices, joins, tests and loop variables.
    "features": """{%- macro show(content, sep='|') -%}
  {%- if content is string -%}{{ content }}
  {%- else -%}{%- for part in content if part.type == 'text' -%}{{ part.text }}{{ sep if not loop.last }}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for m in messages -%}
{{ loop.index }}/{{ loop.length }} {{ m['role'] | capitalize }} {{ m.get('name', 'anon') | title }}: {{ show(m.content) }}
{{ m.role | upper | replace('S', 's') }} {{ 'first' if loop.first else loop.previtem.role }} {{ [1, 2, 3] | length }}
{{ (m.content if m.content is string else 'parts') | default('x') | tojson }} {{ {"b": [1, 2.5, none, true], "a": "é<&>'\\""} | tojson }}
{{ {"b": 1, "a": [2, {}]} | tojson(indent=2) }}
{{ ['x', 'y', 'z'] | join('-') }} {{ messages | map(attribute='role') | join(',') }} {{ messages[-1].role }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 3 }}
{{ 'abc'[1:] ~ 'x' ~ 1 }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ undefined_thing }}|{{ ' xx y xy'.strip('x y') }}|{{ '\\n\\n  z\\n'.lstrip('\\n').rstrip('\\n') }}
{%- for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}<{{ i }}>{% endfor %}
{% for key, value in {'k': 'v', 'w': 2}.items() %}{{ key }}={{ value }};{% endfor %}
{% endfor -%}
""",
}

USER = {"role": "user", "content": "What is 2 + 2?"}
ANSWER = {"role": "assistant", "content": "2 + 2 is 4."}
SYSTEM = {"role": "system", "content": "You are a careful assistant."}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds <two> numbers & \"more\" é",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
    },
}
CONVERSATIONS = {
    "user": [USER],
    "pair": [USER, ANSWER],
    "system": [SYSTEM, USER, ANSWER],
    "three turns": [USER, ANSWER, {"role": "user", "content": "And 3?"}, {"role": "assistant", "content": "5."},
                    {"role": "user", "content": "Thanks"}, {"role": "assistant", "content": "Any time \U0001f642"}],
    "spaces": [{"role": "user", "content": "  hi \n"}, {"role": "assistant", "content": "\n\n  indented\n"}],
    "unicode": [{"role": "user", "content": "e\u0301 \u00e9 漢字 <b>&amp;</b> 'q' \"d\" \\n"}, {"role": "assistant", "content": "naïve 👩‍👩‍👧"}],
    "thoughts": [USER, {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"}, {"role": "user", "content": "Sure?"},
                 {"role": "assistant", "reasoning_content": "check", "content": "Yes."}],
    "calls": [USER, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2, "b": [1.5, "é"]}}}]},
              {"role": "tool", "content": "4"}, {"role": "tool", "content": "four"}, ANSWER],
    "assistant first": [ANSWER, USER],
    "parts": [{"role": "user", "name": "ann lee", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}],
}


def main():
    tok = PreTrainedTokenizerFast(tokenizer_file="tests/fixtures/tokenizer/qwen2/tokenizer.json", **SPECIAL)
    OUT.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, template in TEMPLATES.items():
        (OUT / f"{name}.jinja").write_text(template, encoding="utf-8")
        for title, messages in CONVERSATIONS.items():
            for options in ({}, {"add_generation_prompt": True}, {"tools": [TOOL], "enable_thinking": False, "add_generation_prompt": True}):
                if "tools" in options and name != "reasoning":
                    continue
                row = {"template": name, "title": title, "messages": messages, "options": options}
                try:
                    row["text"] = tok.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
                except Exception as error:
                    row["error"] = str(error)
                if "generation %}" in template and "text" in row:
                    out = tok.apply_chat_template(messages, chat_template=template, return_assistant_tokens_mask=True, **options)
                    row["ids"], row["mask"] = out["input_ids"], out["assistant_masks"]
                rows.append(row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows)
    (OUT / "expected.json").write_text(f"[{lines}]\n", encoding="utf-8")
    print(len(rows), "renderings,", sum("error" in row for row in rows), "refused")


if __name__ == "__main__":
    main()
