import { OptionError } from "../util/options.ts";
import type { TrainingArguments } from "./arguments.ts";

/** How much training there is, in Hugging Face's counts. */
export interface TrainingSteps {
  /** Microbatches and optimizer steps of an epoch. */
  readonly microbatchesPerEpoch: number;
  readonly stepsPerEpoch: number;
  readonly maxSteps: number;
  /** Epochs begun. */
  readonly numTrainEpochs: number;
  /** Rows of the whole training; of maxSteps full steps when it is that which limits it. */
  readonly numTrainSamples: number;
}

/**
 * Counts for `rows` rows. Throws OptionError when no microbatch would be left.
 * @param windowSize microbatches of a step
 */
export function trainingSteps(
  rows: number,
  args: TrainingArguments,
  windowSize = args.gradientAccumulationSteps,
): TrainingSteps {
  const { perDeviceTrainBatchSize: batchSize, dataloaderDropLast } = args;
  const microbatchesPerEpoch = dataloaderDropLast ? Math.floor(rows / batchSize) : Math.ceil(rows / batchSize);
  if (microbatchesPerEpoch === 0) {
    const cure = dataloaderDropLast ? `dataloaderDropLast leaves none of ${rows}` : "give some";
    throw new OptionError(`there are no rows to train on: ${cure} (a microbatch has ${batchSize})`);
  }
  const stepsPerEpoch = Math.ceil(microbatchesPerEpoch / windowSize);
  const limited = args.maxSteps > 0;
  const maxSteps = limited ? args.maxSteps : Math.ceil(args.numTrainEpochs * stepsPerEpoch);
  return {
    microbatchesPerEpoch,
    stepsPerEpoch,
    maxSteps,
    numTrainEpochs: limited ? Math.ceil(maxSteps / stepsPerEpoch) : Math.ceil(args.numTrainEpochs),
    numTrainSamples: limited ? maxSteps * batchSize * windowSize : rows * args.numTrainEpochs,
  };
}

/** Steps of an interval that may be a share of all steps. */
export function intervalSteps(interval: number, maxSteps: number): number {
  return interval < 1 ? Math.ceil(maxSteps * interval) : interval;
}
