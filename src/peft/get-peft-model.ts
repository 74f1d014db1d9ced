import { z } from "zod";
import type { CausalLM } from "../models/model.ts";
import { LAYER_LINEARS } from "../models/parameters.ts";
import { camelCase, OptionError, parseOptions } from "../util/options.ts";
import { type AdaLoraConfigOptions, adaLoraConfig, isAdaLora } from "./adalora-config.ts";
import { createLora } from "./attach.ts";
import { loraSchema } from "./lora-config.ts";
import { checkBaseModel, checkedName, PeftModel } from "./peft-model.ts";
import { withoutUnsupported } from "./unsupported.ts";

/** Named in targetModules, these are trained in full. */
const FULL = ["embed_tokens", "lm_head"];

/** What Unsloth adds to an adapter's configuration. */
const ownShape = {
  /** Recompute activations in training: false none, true all, "unsloth" only what has to be. */
  useGradientCheckpointing: z
    .union([z.boolean(), z.literal("unsloth")], { error: 'expected true, false or "unsloth"' })
    .default("unsloth"),
  /** Taken for compatibility: sequence lengths are set where the model is loaded and trained. */
  maxSeqLength: z.number().int().positive().optional(),
  adapterName: z.string().min(1).default("default"),
};

const ownSchema = z.strictObject(ownShape);

const schema = loraSchema.extend({
  r: loraSchema.shape.r.default(16),
  loraAlpha: loraSchema.shape.loraAlpha.default(16),
  targetModules: loraSchema.shape.targetModules.default([...LAYER_LINEARS]),
  ...ownShape,
  peftType: z.literal("LORA").nullable().optional(),
});

export type GetPeftModelOptions =
  | z.input<typeof schema>
  | (AdaLoraConfigOptions & { readonly peftType: "ADALORA" } & z.input<typeof ownSchema>);

/**
 * Puts a new LoRA adapter on a model, with Unsloth's defaults: r 16, loraAlpha 16, no dropout, all seven linear modules
 * of every layer; with `peftType: "ADALORA"` an AdaLoRA one (`adaLoraConfig`), whose ranks the trainer allocates. As with Unsloth, embed_tokens and lm_head named in targetModules are trained in full (they move to
 * modulesToSave); `attachLora` puts low-rank updates on them. Throws OptionError as `attachLora` does.
 */
export async function getPeftModel(
  model: CausalLM,
  options: GetPeftModelOptions | Readonly<Record<string, unknown>> = {},
): Promise<PeftModel> {
  const owner = "getPeftModel";
  checkBaseModel(owner, model);
  if (model.adapter) {
    throw new OptionError(`${owner}: the model already has an adapter: merge it, or dispose of it, first`);
  }
  const given = withoutUnsupported(owner, options as Record<string, unknown>);
  const {
    useGradientCheckpointing,
    maxSeqLength: _,
    adapterName,
    ...config
  } = isAdaLora(given, owner) ? adaLoraOptions(owner, given) : parseOptions(owner, schema, given);
  // Before there is an adapter to be freed, and a base weight that it has changed.
  checkedName(adapterName);
  const adapter = await createLora(model, trainEmbeddingsInFull(config), owner);
  return new PeftModel(model, adapter, { adapterName, gradientCheckpointing: useGradientCheckpointing });
}

function adaLoraOptions(owner: string, given: Readonly<Record<string, unknown>>) {
  const all = Object.entries(given).map(([key, value]) => [camelCase(key), value] as const);
  const isOwn = ([key]: readonly [string, unknown]): boolean => Object.hasOwn(ownShape, key);
  const own = parseOptions(owner, ownSchema, Object.fromEntries(all.filter(isOwn)));
  const rest = Object.fromEntries(all.filter((entry) => !isOwn(entry)));
  const config = adaLoraConfig({ loraAlpha: 16, targetModules: [...LAYER_LINEARS], ...rest }, owner);
  // Kept for the note that it is not used.
  return { ...config, ...(rest.r !== undefined && { r: rest.r }), ...own };
}

function trainEmbeddingsInFull<C extends Pick<z.output<typeof loraSchema>, "targetModules" | "modulesToSave">>(
  config: C,
): C {
  const { targetModules, modulesToSave } = config;
  if (!Array.isArray(targetModules)) return config;
  const full = targetModules.filter((name) => FULL.includes(name));
  if (full.length === 0) return config;
  const left = targetModules.filter((name) => !FULL.includes(name));
  if (left.length === 0) {
    throw new OptionError(
      `getPeftModel: targetModules names ${full.join(" and ")} only, which are trained in full: name a linear module too, or use attachLora`,
    );
  }
  return { ...config, targetModules: left, modulesToSave: [...new Set([...(modulesToSave ?? []), ...full])] };
}
