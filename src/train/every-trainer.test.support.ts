/** A small training of every kind of trainer, for tests that hold for all of them. */
import { Dataset } from "../data/index.ts";
import { loadModel } from "../models/load/load.ts";
import { getPeftModel, PeftModel } from "../peft/index.ts";
import { oracleJson, oraclePath } from "../testing/oracle.ts";
import { backend, baseModel, data, type OracleCase, policyModel, trainerOf } from "./preference/parity.test.support.ts";
import { RewardTrainer } from "./reward/reward-trainer.ts";
import { addValueAdapter, GRPOTrainer, PPOTrainer, type RewardFunction } from "./rl/index.ts";
import { wordTokenizer } from "./rl/rl.test.support.ts";
import { quietTrainer, randomRows, source, tinyPeft } from "./tiny-training.test.support.ts";
import type { Trainer } from "./trainer.ts";

/** A trainer and the model it trains, which is freed after it. */
export interface SmallTraining {
  readonly trainer: Trainer;
  readonly model: PeftModel;
}

type Arguments = Readonly<Record<string, unknown>>;

const QUIET = { logLevel: "error", loggingSteps: 1, learningRate: 1e-2, seed: 11 } as const;
const PROMPTS = Array.from({ length: 6 }, (_, i) => ({ prompt: `t${4 + i} t${9 + 3 * i}` }));
const evens: RewardFunction = ({ completionIds }) =>
  completionIds.map((ids) => ids.filter((id) => id % 2 === 0).length / ids.length);

async function preference(trainer: OracleCase["trainer"], model: PeftModel, args: Arguments): Promise<SmallTraining> {
  const train = trainer === "kto" ? data.train_singles : data.train;
  const more = { perDeviceTrainBatchSize: 2, refModel: null, trainSamplingStrategy: "random", ...args };
  return { model, trainer: trainerOf({ trainer, options: {} }, model, { train }, more) };
}

export const SMALL_TRAININGS: Readonly<Record<string, (args: Arguments) => Promise<SmallTraining>>> = {
  async sft(args) {
    const model = await tinyPeft(backend, { loraDropout: 0.1 });
    const train = source(randomRows(5), { strategy: "random" });
    return { model, trainer: quietTrainer(model, { train, args: { ...QUIET, ...args } }) };
  },
  async adalora(args) {
    const adapter = {
      initR: 3,
      targetR: 2,
      tinit: 1,
      tfinal: 1,
      deltaT: 1,
      totalStep: 6,
      targetModules: ["q_proj", "v_proj"],
    };
    const model = await getPeftModel(await baseModel(), { peftType: "ADALORA", ...adapter });
    const train = source(randomRows(5), { strategy: "random" });
    return { model, trainer: quietTrainer(model, { train, args: { ...QUIET, ...args } }) };
  },
  // The adapter has been trained before: its copy is the reference.
  dpo: async (args) => preference("dpo", await policyModel(), args),
  kto: async (args) => preference("kto", await policyModel(), args),
  cpo: async (args) => preference("cpo", await policyModel(), args),
  orpo: async (args) => preference("orpo", await policyModel(), args),
  async reward(args) {
    const base = await loadModel({ path: oraclePath("families", "llama3", "model"), backend });
    const model = await PeftModel.fromPretrained(base, oraclePath("reward", "adapter_init"), { isTrainable: true });
    const { train } = oracleJson<{ train: { chosen_ids: number[]; rejected_ids: number[] }[] }>(
      "reward",
      "expected.json",
    );
    const trainDataset = train.map(({ chosen_ids, rejected_ids }) => ({
      chosenIds: Int32Array.from(chosen_ids),
      rejectedIds: Int32Array.from(rejected_ids),
    }));
    return { model, trainer: new RewardTrainer({ model, trainDataset, args: { ...QUIET, ...args } }) };
  },
  async grpo(args) {
    const model = await tinyPeft(backend, { initLoraWeights: false });
    const sizes = { perDeviceTrainBatchSize: 4, numGenerations: 4, maxCompletionLength: 5 };
    // A generation serves several steps, so that checkpoints fall within one.
    const settings = { ...sizes, gradientAccumulationSteps: 1, stepsPerGeneration: 2, numIterations: 2, beta: 0.05 };
    const trainer = new GRPOTrainer({
      model,
      tokenizer: wordTokenizer(61),
      rewardFuncs: evens,
      trainDataset: Dataset.fromList(PROMPTS),
      args: { ...QUIET, ...settings, ...args },
    });
    return { model, trainer };
  },
  async ppo(args) {
    const model = await tinyPeft(backend);
    await addValueAdapter(model);
    const settings = { perDeviceTrainBatchSize: 4, responseLength: 5, numPpoEpochs: 2, numSampleGenerations: 0 };
    const trainer = new PPOTrainer({
      model,
      tokenizer: wordTokenizer(61),
      rewardModel: evens,
      trainDataset: Dataset.fromList(PROMPTS),
      args: { ...QUIET, ...settings, ...args },
    });
    return { model, trainer };
  },
};
