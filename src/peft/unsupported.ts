import { isDeepStrictEqual } from "node:util";
import { nearest } from "../util/nearest.ts";
import { camelCase, OptionError } from "../util/options.ts";

/**
 * LoRA options that PEFT has and this library has not, by their values that change nothing. Anything else is refused:
 * ignoring it would train, or load, another model than the one asked for.
 */
const UNSUPPORTED: Readonly<Record<string, { readonly what: string; readonly neutral: readonly unknown[] }>> = {
  useQalora: { what: "QALoRA", neutral: [false, null] },
  useBdlora: { what: "BD-LoRA", neutral: [false, null] },
  loraBias: { what: "a bias on B", neutral: [false, null] },
  layerReplication: { what: "layer replication", neutral: [[], null] },
  targetParameters: { what: "targeting parameters rather than modules", neutral: [[], null] },
  aloraInvocationTokens: { what: "aLoRA", neutral: [null] },
  arrowConfig: { what: "Arrow routing", neutral: [null] },
  veloraConfig: { what: "VeLoRA", neutral: [null] },
  montecloraConfig: { what: "MonteCLoRA", neutral: [null] },
  kasaConfig: { what: "KaSA", neutral: [null] },
  megatronConfig: { what: "Megatron's parallel layers", neutral: [null] },
  evaConfig: { what: "EVA initialisation", neutral: [null] },
  cordaConfig: { what: "CorDA initialisation", neutral: [null] },
  loraGaConfig: { what: "LoRA-GA initialisation", neutral: [null] },
  fanInFanOut: { what: "weights stored [in, out]", neutral: [false, null] },
  qatScheme: { what: "quantisation-aware training", neutral: [null] },
};

/** `options` without what is not supported yet; throws OptionError when one of these is not at its neutral value. */
export function withoutUnsupported(owner: string, options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const rest: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    const option = UNSUPPORTED[camelCase(key)];
    if (!option) {
      rest[key] = value;
    } else if (value !== undefined && !option.neutral.some((neutral) => isDeepStrictEqual(neutral, value))) {
      const neutral = JSON.stringify(option.neutral[0]);
      throw new OptionError(
        `${owner}: ${key}: ${option.what} is not supported yet; leave it out or set it to ${neutral}`,
      );
    }
  }
  return rest;
}

const INITIALISATIONS = ["gaussian", "orthogonal", "pissa", "olora", "loftq"] as const;
/** What `initLoraWeights` may be; names in any case of letters. */
export type Initialisation = boolean | (typeof INITIALISATIONS)[number] | `pissa_niter_${number}`;

/** Those that PEFT has and this library has not: they need gradients or activations of data. */
const UNSUPPORTED_INITIALISATIONS = ["eva", "corda", "mica", "lora_ga"];

export const isInitialisation = (value: unknown): boolean => {
  if (typeof value !== "string") return typeof value === "boolean";
  const name = value.toLowerCase();
  return (INITIALISATIONS as readonly string[]).includes(name) || /^pissa_niter_\d{1,3}$/.test(name);
};

/** Why a value of `initLoraWeights` is refused. */
export function initialisationMessage(value: unknown): string {
  const supported = `supported are true, false, ${INITIALISATIONS.map((name) => `"${name}"`).join(", ")} and "pissa_niter_N"`;
  if (typeof value !== "string") return `expected true, false or a name; ${supported}`;
  if (UNSUPPORTED_INITIALISATIONS.includes(value)) return `this initialisation is not supported yet; ${supported}`;
  const close = nearest(value, [...INITIALISATIONS, "pissa_niter_4", ...UNSUPPORTED_INITIALISATIONS]);
  return `unknown initialisation; ${supported}${close ? ` (did you mean "${close}"?)` : ""}`;
}
