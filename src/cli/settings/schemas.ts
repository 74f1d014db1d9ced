import { z } from "zod";
import { DEVICES } from "../../api/device.ts";
import { adaLoraShape } from "../../peft/adalora-config.ts";
import { loraSchema } from "../../peft/lora-config.ts";

/** Flags that say where to compute. */
export const deviceShape = {
  device: z.enum(DEVICES).default("auto").describe("where to compute; auto: a GPU where one can be used"),
  threads: z.number().int().positive().optional().describe("CPU threads (default: all); they ask for the CPU"),
};

/** A flag about the memory of a model's input embeddings. */
export const offloadShape = {
  offloadEmbedding: z
    .boolean()
    .default(false)
    .describe(
      "keep the input embeddings in host memory, for a GPU short of its own (not where the head is their table)",
    ),
};

/** Which model is trained, and how it is loaded. */
export const modelSchema = z.strictObject({
  model: z.string().min(1).describe("Hugging Face folder, .gguf file, or id on the hub (organisation/name)"),
  revision: z.string().min(1).optional().describe("branch, tag or commit of a model of the hub"),
  adapter: z.string().min(1).nullable().default(null).describe("go on training this LoRA adapter (folder or hub id)"),
  loadIn4bit: z.boolean().optional().describe("quantise the frozen weights to NF4 (default: true)"),
  loadIn8bit: z.boolean().default(false).describe("quantise the frozen weights to 8 bits"),
  loadIn16bit: z.boolean().default(false).describe("keep the frozen weights in 16 bits"),
  fullFinetuning: z.boolean().default(false).describe("train all weights instead of an adapter"),
  dtype: z.enum(["float32", "bfloat16", "float16"]).nullable().default(null).describe("how other weights are kept"),
  ...deviceShape,
  fp8: z
    .boolean()
    .default(false)
    .describe("multiply frozen weights, but the first and last layer's, in 8 bits on a GPU of capability 8.9 and up"),
  ...offloadShape,
});

/** Rows to train on and rows held out. */
export const dataSchema = z.strictObject({
  data: z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
    .describe("training rows: file, folder or hub id"),
  evalData: z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
    .nullable()
    .default(null)
    .describe("held-out rows"),
  split: z.string().min(1).optional().describe('part of the data: train, "train[:1000]", "train[10%:]"'),
  evalSplit: z.string().min(1).optional().describe("the same of the held-out rows (of data, without eval-data)"),
  streaming: z
    .boolean()
    .nullable()
    .default(null)
    .describe("tokenise rows into a file and read them from there; left out: for data of 256 MiB and more"),
  evalSize: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe("without eval-data: rows (or below 1 the share) of the data to hold out"),
});

/** What becomes of the training. */
export const runSchema = z.strictObject({
  output: z.string().min(1).default("outputs").describe("where the adapter and checkpoints go"),
  resume: z
    .union([z.boolean(), z.string().min(1)])
    .default(false)
    .describe("go on from a checkpoint folder; alone, from the latest of --output"),
  earlyStoppingPatience: z
    .number()
    .int()
    .positive()
    .nullable()
    .default(null)
    .describe("stop after this many evaluations without a better metric-for-best-model"),
});

const peftType = z.enum(["LORA", "ADALORA"]).optional().describe("kind of adapter (default: LORA)");
// A saved adapter's ranks are read from its file.
const { rankPattern: _, ...adaLora } = adaLoraShape;

const checkpointing = z
  .union([z.boolean(), z.literal("unsloth")])
  .optional()
  .describe("activations to recompute: false, true, or unsloth: only what has to be (default: unsloth)");

/** The adapter, and which activations its training keeps. */
export const adapterSchema = loraSchema.extend({ useGradientCheckpointing: checkpointing, peftType, ...adaLora });
