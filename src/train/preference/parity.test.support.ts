/** The tiny model, adapters and rows that TRL's numbers were made with (tests/oracle/make_preference.py). */
import { type CpuBackend, openCpuBackend } from "../../backends/cpu/backend.ts";
import { Dataset, type Row } from "../../data/index.ts";
import { loadModel } from "../../models/load/load.ts";
import type { CausalLM } from "../../models/model.ts";
import { PeftModel } from "../../peft/index.ts";
import { oracleJson, oraclePath } from "../../testing/oracle.ts";
import { FIXTURES } from "../../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../../tokenizer/index.ts";
import { CPOTrainer, DPOTrainer, KTOTrainer, ORPOTrainer, type PreferenceTrainerOptions } from "./index.ts";

export interface OracleCase {
  readonly trainer: "dpo" | "kto" | "cpo" | "orpo";
  readonly name: string;
  readonly options: Record<string, unknown>;
}

export type OracleData = Record<
  "batch" | "singles" | "train" | "eval" | "train_singles" | "eval_singles",
  readonly Row[]
>;

export const backend: CpuBackend = await openCpuBackend({ threads: 2, prefer: "native" });
export const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
export const data = oracleJson<OracleData>("preference", "data.json");

export const baseModel = (): Promise<CausalLM> =>
  loadModel({ path: oraclePath("preference", "model"), backend, fullFinetuning: false });

/** The model with the adapter that the oracle trains, whose updates are not zero. */
export async function policyModel(): Promise<PeftModel> {
  return PeftModel.fromPretrained(await baseModel(), oraclePath("preference", "adapter"), { isTrainable: true });
}

const TRAINERS = { dpo: DPOTrainer, kto: KTOTrainer, cpo: CPOTrainer, orpo: ORPOTrainer };

/** Most fixtures have the base model as the reference. */
const referenceOf = (trainer: OracleCase["trainer"], model: PeftModel | CausalLM): "base" | null =>
  (trainer === "dpo" || trainer === "kto") && model instanceof PeftModel ? "base" : null;

/** A trainer that prints and saves nothing, with the oracle's settings. */
export function trainerOf(
  { trainer, options }: Pick<OracleCase, "trainer" | "options">,
  model: PeftModel | CausalLM,
  rows: { train: readonly Row[]; evaluation?: readonly Row[] },
  { refModel = referenceOf(trainer, model), ...more }: Record<string, unknown> = {},
): DPOTrainer | KTOTrainer | CPOTrainer | ORPOTrainer {
  const args = {
    logLevel: "error",
    loggingSteps: 1,
    saveStrategy: "no",
    learningRate: 2e-3,
    seed: 7,
    max_length: 48,
    trainSamplingStrategy: "sequential",
    ...more,
    ...options,
  };
  const { evaluation } = rows;
  const given: PreferenceTrainerOptions & { args: Record<string, unknown> } = {
    model,
    tokenizer,
    trainDataset: Dataset.fromList(rows.train),
    ...(evaluation && { evalDataset: Dataset.fromList(evaluation) }),
    args,
    // A named adapter is instead of it.
    ...(refModel !== null && more.refAdapterName === undefined && { refModel }),
  };
  return new TRAINERS[trainer](given);
}
