import { camelCase, OptionError } from "../util/options.ts";

/**
 * Options by their names in camelCase, older names replaced by today's; undefined ones are left out. Throws OptionError
 * when one is given twice.
 */
export function renamed(
  owner: string,
  options: Readonly<Record<string, unknown>>,
  aliases: Readonly<Record<string, string>>,
): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  const spelling: Record<string, string> = {};
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const plain = camelCase(key);
    const name = Object.hasOwn(aliases, plain) ? aliases[plain]! : plain;
    if (Object.hasOwn(result, name)) {
      throw new OptionError(`${owner}: "${spelling[name]}" and "${key}" are the same option; give it once`);
    }
    result[name] = value;
    spelling[name] = key;
  }
  return result;
}
