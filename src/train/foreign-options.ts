/** Options that people copy along from Hugging Face's scripts and that steer things this library does not have. */
import { OptionError } from "../util/options.ts";

/** What becomes of an option: it is taken without effect, or only with values that ask for nothing. */
export interface ForeignOption {
  /** Why it changes nothing, or why it cannot be had and what to do instead. */
  readonly because: string;
  /** Values that are accepted; all when left out. */
  readonly only?: readonly unknown[];
}

export type ForeignOptions = Readonly<Record<string, ForeignOption>>;

/** Names of options that change nothing. */
export const noEffect = (because: string, names: readonly string[]): ForeignOptions =>
  Object.fromEntries(names.map((name) => [name, { because }]));

/** Names of options that cannot be had: accepted are only values that ask for nothing. */
export const unsupported = (because: string, names: readonly string[], only: readonly unknown[] = [null, false, ""]) =>
  Object.fromEntries(names.map((name) => [name, { because, only }]));

/** Options of TRL's configurations of trainers that learn from rows. */
export const ROWS_FOREIGN: ForeignOptions = {
  datasetNumProc: { because: "rows are prepared in one process" },
  padToMultipleOf: { because: "batches are padded at their end, to lengths that few programs serve" },
  trustRemoteCode: { because: "no code is loaded with a model" },
  padToken: { because: "padding is not part of any sequence", only: [null] },
  modelInitKwargs: { because: "give the model loaded", only: [null] },
};

const ONE_PROCESS = "training runs in one process";

/** TrainingArguments' options beside those of `argumentsSchema`, by their names in camelCase. */
export const FOREIGN_ARGUMENTS: ForeignOptions = {
  ...noEffect("columns that a row's shape does not use are never read", ["removeUnusedColumns", "lengthColumnName"]),
  ...noEffect("batches are made from rows already tokenised, which takes no workers", [
    "dataloaderNumWorkers",
    "dataloaderPinMemory",
    "dataloaderPersistentWorkers",
    "dataloaderPrefetchFactor",
    "dataloaderMultiprocessingContext",
    "dataloaderInOrder",
  ]),
  ...noEffect(ONE_PROCESS, [
    "ddpFindUnusedParameters",
    "ddpBucketCapMb",
    "ddpBroadcastBuffers",
    "ddpStaticGraph",
    "ddpBackend",
    "ddpTimeout",
    "localRank",
    "logOnEachNode",
    "logLevelReplica",
    "saveOnEachNode",
    "evalUseGatherObject",
    "averageTokensAcrossDevices",
  ]),
  ...noEffect("every step is a compiled program with kernels of this library's own", [
    "torchCompile",
    "torchCompileBackend",
    "torchCompileMode",
    "useLigerKernel",
    "ligerKernelConfig",
    "tf32",
    "useCache",
  ]),
  ...noEffect("memory is planned before the first step, and a step allocates nothing", [
    "torchEmptyCacheSteps",
    "skipMemoryMetrics",
    "evalAccumulationSteps",
    "gradientCheckpointingKwargs",
    "activationCheckpointingKwargs",
  ]),
  ...noEffect("the same seed gives the same result always", ["fullDeterminism"]),
  ...noEffect("the backend is chosen where the model is loaded", ["useCpu", "noCuda", "bf16FullEval", "fp16FullEval"]),
  ...noEffect("as in Hugging Face's trainer, only scripts read it", ["doTrain", "doEval", "doPredict"]),
  ...noEffect("SIGINT and SIGTERM always finish the step and save", ["enableJitCheckpoint"]),
  ...noEffect("it goes with pushToHub, which is off", [
    "hubModelId",
    "hubToken",
    "hubStrategy",
    "hubPrivateRepo",
    "hubAlwaysPush",
    "hubRevision",
  ]),
  ...noEffect("it names a project of a reporter that is not used; set WANDB_PROJECT for wandb", [
    "project",
    "trackioSpaceId",
    "trackioBucketId",
    "trackioStaticSpaceId",
  ]),
  ...unsupported("it is not supported yet: save with trainer.saveModel() and upload the folder", ["pushToHub"]),
  ...unsupported(ONE_PROCESS, ["deepspeed", "fsdp", "fsdpConfig", "acceleratorConfig", "parallelismConfig"]),
  ...unsupported("memory is planned before the first step: choose perDeviceTrainBatchSize by that plan", [
    "autoFindBatchSize",
  ]),
  ...unsupported("the optimizers here take no further settings", ["optimArgs", "optimTargetModules"]),
  ...unsupported("there is nothing to debug of that kind", ["debug"], [null, "", false]),
  ...unsupported("labels are called labels", ["labelNames"]),
  ...unsupported("a resumed run must start where the data stood; skipping costs little here", ["ignoreDataSkip"]),
  ...unsupported("predictions are a list, a sequence each", ["evalDoConcatBatches"], [null, true]),
};

/** Options without the foreign ones, names in camelCase. Throws OptionError for one that asks for what cannot be had. */
export function withoutForeign(
  owner: string,
  options: Readonly<Record<string, unknown>>,
  foreign: ForeignOptions,
): Record<string, unknown> {
  const rest: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(foreign, name)) {
      rest[name] = value;
      continue;
    }
    const { only, because } = foreign[name]!;
    const empty = Array.isArray(value) && value.length === 0;
    if (only && !empty && !only.includes(value)) {
      throw new OptionError(`${owner}: ${name} ${JSON.stringify(value)} cannot be had: ${because}`);
    }
  }
  return rest;
}
