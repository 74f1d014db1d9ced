import { jinjaString } from "./templates/index.ts";

/** Names that a data set's conversations have for the parts of a message: ShareGPT's are from, value, human, gpt. */
export interface MessageMapping {
  role?: string;
  content?: string;
  user?: string;
  assistant?: string;
  system?: string;
}

/**
 * A template that takes messages under other names too: what is put before it rewrites them to role and content. Messages
 * that have the usual names are left as they are.
 */
export function withMapping(source: string, mapping: MessageMapping): string {
  const { role = "role", content = "content" } = mapping;
  const roles = (["system", "user", "assistant"] as const).flatMap((name) => {
    const other = mapping[name];
    return other === undefined || other === name ? [] : [[other, name] as const];
  });
  if (role === "role" && content === "content" && roles.length === 0) return source;
  const [roleKey, contentKey] = [jinjaString(role), jinjaString(content)];
  const cases = roles.map(
    ([from, to], i) =>
      `    {%- ${i === 0 ? "if" : "elif"} role == ${jinjaString(from)} %}\n        {%- set role = ${jinjaString(to)} %}`,
  );
  const renamed = cases.length === 0 ? "" : `${cases.join("\n")}\n    {%- endif %}\n`;
  return `{%- set mapped = namespace(messages=[]) %}
{%- for message in messages %}
    {%- set role = message[${roleKey}] if message[${roleKey}] is defined else message['role'] %}
    {%- set content = message[${contentKey}] if message[${contentKey}] is defined else message['content'] %}
${renamed}    {%- if role == message['role'] and content == message['content'] %}
        {%- set mapped.messages = mapped.messages + [message] %}
    {%- else %}
        {%- set mapped.messages = mapped.messages + [{'role': role, 'content': content}] %}
    {%- endif %}
{%- endfor %}
{%- set messages = mapped.messages %}
${source}`;
}
