import type { z } from "zod";
import { nearest } from "../../util/nearest.ts";
import { camelCase, OptionError } from "../../util/options.ts";
import type { CliCommand } from "../command.ts";
import { UsageError } from "../exit.ts";
import { flagValue, kebab, optionKey, schemaFlag, snake, wordsOf } from "../flags.ts";
import type { ConfigEntry } from "./config-file.ts";

/** Options that belong together: a section of a configuration file, a heading of --help. */
export interface SettingGroup {
  readonly name: string;
  readonly heading: string;
  readonly schema: z.ZodObject;
  /** Defaults where they are not the schema's. */
  readonly defaults?: Readonly<Record<string, unknown>>;
  /** Fields that cannot be set here. */
  readonly omit?: readonly string[];
}

interface Setting {
  readonly name: string;
  readonly group: SettingGroup;
  readonly schema: z.ZodType;
}

/** A value somebody gave a setting. */
export interface GivenSetting {
  readonly name: string;
  readonly value: unknown;
  /** Where, for messages: "config.yaml:3: learning_rate" or "--learning-rate". */
  readonly where: string;
}

export interface TableOptions {
  /** The command that compares trainings with these settings, for messages. */
  readonly sweep: string;
  readonly groups: readonly SettingGroup[];
  /** Further names of sections. */
  readonly sections: Readonly<Record<string, string>>;
  /** Further names of settings, camelCase; "section.name" holds in that section only. */
  readonly aliases: Readonly<Record<string, string>>;
  /** Keeps a key that is no setting from being an error: true when it may be ignored; may throw why it may not. */
  readonly foreign?: (key: string, value: unknown, where: string) => boolean;
}

/** Every setting of a command by name: what a configuration file and the flags are checked against. */
export class SettingsTable {
  private readonly options: TableOptions;
  private readonly settings = new Map<string, Setting>();

  constructor(options: TableOptions) {
    this.options = options;
    for (const group of options.groups) {
      for (const [name, schema] of Object.entries(group.schema.shape)) {
        if (group.omit?.includes(name) || this.settings.has(name)) continue;
        this.settings.set(name, { name, group, schema: schema as z.ZodType });
      }
    }
  }

  get sweep(): string {
    return this.options.sweep;
  }

  /** Adds a flag for every setting, under its group's heading. */
  addFlags(command: CliCommand): void {
    for (const group of this.options.groups) {
      for (const { name, schema } of [...this.settings.values()].filter((setting) => setting.group === group)) {
        command.addOption(schemaFlag(name, schema, group.defaults?.[name]).helpGroup(group.heading));
      }
    }
    for (const [alias, name] of Object.entries(this.options.aliases)) {
      if (!alias.includes(".")) command.aliasFlag(kebab(alias), kebab(name));
    }
    command.explainFlags((flag, value) => this.foreignFlag(flag, value));
  }

  /** Whether a map under this key holds settings rather than being one's value. */
  isSection = (key: string): boolean => this.sectionOf(key) !== null;

  /** The settings of a configuration file. Throws UsageError at an unknown or repeated key. */
  fromFile(entries: readonly ConfigEntry[]): Map<string, GivenSetting> {
    const given = new Map<string, GivenSetting>();
    for (const { key, section, value, where } of entries) {
      const setting = this.find(key, section);
      if (!setting) {
        if (this.options.foreign?.(key, value, where)) continue;
        throw new UsageError(`${where}: unknown option "${key}"${this.hint(key)}`);
      }
      const at = `${where}: ${key}`;
      const other = given.get(setting.name);
      if (other) throw new UsageError(`${at}: given twice, also at ${other.where}`);
      given.set(setting.name, this.checked({ name: setting.name, value, where: at }));
    }
    return given;
  }

  /** The settings among a command's parsed flags. */
  fromFlags(flags: Readonly<Record<string, unknown>>): Map<string, GivenSetting> {
    const given = new Map<string, GivenSetting>();
    for (const { name, schema } of this.settings.values()) {
      const raw = flags[optionKey(name)];
      if (raw === undefined) continue;
      const value = flagValue(name, schema, raw);
      given.set(name, this.checked({ name, value, where: `--${kebab(name)}` }));
    }
    return given;
  }

  /** One setting given by name elsewhere (in a sweep), in any spelling. Throws UsageError. */
  fromName(key: string, value: unknown, where: string): GivenSetting {
    const setting = this.find(key, null);
    if (!setting) throw new UsageError(`${where}: unknown option "${key}"${this.hint(key)}`);
    return this.checked({ name: setting.name, value, where: `${where}: ${key}` });
  }

  /** The given values of a group, by name. */
  valuesOf(group: string, given: ReadonlyMap<string, GivenSetting>): Record<string, unknown> {
    const inGroup = [...given.values()].filter(({ name }) => this.settings.get(name)!.group.name === group);
    return Object.fromEntries(inGroup.map(({ name, value }) => [name, value]));
  }

  /** Why another library's option is none here, as files are told; null where nobody knows it. */
  private foreignFlag(flag: string, value: string | null): string | null {
    const negated = /^--no-(.+)$/.exec(flag)?.[1];
    const says = (name: string, meant: unknown): string | null => {
      try {
        const changesNothing = this.options.foreign?.(camelCase(snake(name)), meant, flag) ?? false;
        return changesNothing ? `${flag} changes nothing here: leave it out` : null;
      } catch (error) {
        if (error instanceof UsageError || error instanceof OptionError) return error.message;
        throw error;
      }
    };
    return says(flag.slice(2), plainValue(value)) ?? (negated === undefined ? null : says(negated, false));
  }

  private sectionOf(key: string): string | null {
    const name = this.options.sections[camelCase(key)] ?? camelCase(key);
    return this.options.groups.some((group) => group.name === name) ? name : null;
  }

  private find(key: string, section: string | null): Setting | undefined {
    const name = camelCase(key.replaceAll("-", "_"));
    const { aliases } = this.options;
    const scoped = section === null ? undefined : aliases[`${this.sectionOf(section)}.${name}`];
    return this.settings.get(scoped ?? name) ?? this.settings.get(aliases[name] ?? "");
  }

  private hint(key: string): string {
    const names = [...this.settings.keys(), ...Object.keys(this.options.aliases).filter((name) => !name.includes("."))];
    const close = nearest(key, names);
    if (close === null) return "";
    return `; did you mean "${/[A-Z]/.test(key) ? close : snake(close)}"?`;
  }

  private checked(given: GivenSetting): GivenSetting {
    const { schema } = this.settings.get(given.name)!;
    const result = schema.safeParse(given.value);
    if (result.success) return given;
    const issue = result.error.issues[0]!;
    const inside = issue.path.length > 0 ? `${issue.path.join(".")}: ` : "";
    const isWord = typeof given.value === "string" && issue.path.length === 0;
    const choices = issue.code === "invalid_value" ? issue.values.map(String) : isWord ? wordsOf(schema) : [];
    const close = typeof given.value === "string" ? nearest(given.value, choices) : null;
    const found = `found ${JSON.stringify(given.value)}`;
    const hint = close ? `; did you mean "${close}"?` : numberHint(given.value, issue);
    const message =
      issue.code === "invalid_union" && choices.length > 0
        ? `expected one of ${choices.join("|")}`
        : issue.message.replace(/^Invalid (input|option): /, "");
    throw new UsageError(`${given.where}: ${inside}${message}, ${found}${hint}`);
  }
}

/** A flag's text as a value whose type nobody knows; a flag alone is true. */
function plainValue(text: string | null): unknown {
  if (text === null) return true;
  if (/^(true|false|null)$/.test(text)) return JSON.parse(text);
  return text.trim() !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
}

function numberHint(value: unknown, issue: z.core.$ZodIssue): string {
  if (issue.code !== "invalid_type" || typeof value !== "string") return "";
  if (issue.expected === "number" && value.trim() !== "" && !Number.isNaN(Number(value)))
    return " (leave the quotes out)";
  if (issue.expected === "boolean" && /^(yes|no|on|off|true|false)$/i.test(value)) return " (write true or false)";
  return "";
}
