import { Command, type ErrorOptions, Option, type ParseOptionsResult } from "commander";
import { write, writeError } from "./terminal.ts";

/** A flag that is true alone, and takes true, false, or a word that `takes` accepts. */
export class BooleanOption extends Option {
  readonly takes: (word: string) => boolean;

  constructor(flags: string, description?: string, takes: (word: string) => boolean = () => false) {
    super(`${flags} [true|false]`, description);
    this.takes = (word) => word === "true" || word === "false" || takes(word);
  }
}

/**
 * A command that throws instead of ending the process, and takes its flags in any spelling: --max-steps, --max_steps,
 * --maxSteps; --packing, --packing false, --no-packing.
 */
export class CliCommand extends Command {
  private readonly flagAliases = new Map<string, string>();
  private reasonOf: FlagReason = () => null;
  /** What the command line has from the first flag on that is none of this command's. */
  private unknown: readonly string[] = [];

  constructor(name?: string) {
    super(name);
    this.exitOverride();
    this.showHelpAfterError("(--help lists what there is)");
    this.configureOutput({
      writeOut: write,
      writeErr: writeError,
      outputError: (text, writeOne) => writeOne(text.replace(/^error: /, "unsloth: ")),
    });
    this.configureHelp({ showGlobalOptions: false });
  }

  override createCommand(name?: string): CliCommand {
    return new CliCommand(name);
  }

  /** Takes --alias as --name. */
  aliasFlag(alias: string, name: string): void {
    this.flagAliases.set(squashed(alias), squashed(name));
  }

  /** Has `reasonOf` say why a flag is none of this command's. */
  explainFlags(reasonOf: FlagReason): void {
    this.reasonOf = reasonOf;
  }

  override parseOptions(argv: string[]): ParseOptionsResult {
    const result = super.parseOptions(respell(argv, this.options, this.flagAliases));
    this.unknown = result.unknown;
    return result;
  }

  override error(message: string, options?: ErrorOptions): never {
    const reason = options?.code === "commander.unknownOption" ? this.reason() : null;
    return super.error(reason === null ? message : `error: ${reason}`, options);
  }

  private reason(): string | null {
    const [token = "", next] = this.unknown;
    const equals = token.indexOf("=");
    if (equals >= 0) return this.reasonOf(token.slice(0, equals), token.slice(equals + 1));
    return this.reasonOf(token, next === undefined || next.startsWith("-") ? null : next);
  }
}

/** Why a flag that a command does not have cannot be had; null: nobody knows it. `value`: what follows it. */
type FlagReason = (flag: string, value: string | null) => string | null;

const squashed = (flag: string): string => flag.replace(/[-_]/g, "").toLowerCase();

/** `argv` with the flags among `options` as these are declared, and their values left alone. */
export function respell(
  argv: readonly string[],
  options: readonly Option[],
  aliases: ReadonlyMap<string, string> = new Map(),
): string[] {
  const byName = new Map(options.map((option) => [squashed(option.long ?? ""), option]));
  for (const [alias, name] of aliases) {
    const option = byName.get(name);
    if (option && !byName.has(alias)) byName.set(alias, option);
  }
  const result: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const token = argv[i]!;
    if (token === "--") return [...result, ...argv.slice(i)];
    if (!token.startsWith("--")) {
      result.push(token);
      continue;
    }
    const equals = token.indexOf("=");
    const name = squashed(equals < 0 ? token : token.slice(0, equals));
    const option = byName.get(name);
    const negated = name.startsWith("no") ? byName.get(name.slice(2)) : undefined;
    const next = argv[i + 1];
    if (option && equals >= 0) result.push(`${option.long}${token.slice(equals)}`);
    else if (option instanceof BooleanOption) {
      const taken = next !== undefined && option.takes(next);
      result.push(`${option.long}=${taken ? next : "true"}`);
      if (taken) i++;
    } else if (option) {
      result.push(option.long!);
      if (option.required && next !== undefined) result.push(argv[++i]!);
    } else if (negated instanceof BooleanOption) result.push(`${negated.long}=false`);
    else result.push(token);
  }
  return result;
}
