import assert from "node:assert/strict";
import { test } from "node:test";
import { argumentsToJson, countsTokens, isEightBit, TrainingArguments } from "./arguments.ts";
import { SFTConfig, sftValues } from "./sft-config.ts";
import { trainingSteps } from "./training-steps.ts";

const args = (options: Record<string, unknown>): TrainingArguments => new TrainingArguments(options);

test("defaults are Hugging Face's", () => {
  const { learningRate, loggingSteps, saveSteps, perDeviceTrainBatchSize, numTrainEpochs, seed, ...rest } = args({});
  assert.deepEqual(
    { learningRate, loggingSteps, saveSteps, perDeviceTrainBatchSize, numTrainEpochs, seed },
    { learningRate: 5e-5, loggingSteps: 500, saveSteps: 500, perDeviceTrainBatchSize: 8, numTrainEpochs: 3, seed: 42 },
  );
  assert.equal(rest.lrSchedulerType, "linear");
  assert.equal(rest.maxGradNorm, 1);
  assert.equal(rest.saveStrategy, "steps");
  assert.equal(rest.evalStrategy, "no");
  assert.equal(rest.outputDir, "trainer_output");
  assert.deepEqual(rest.reportTo, []);
});

test("SFTConfig has TRL's defaults, and both kinds of options as properties", () => {
  const config = new SFTConfig({ max_length: 512, packing: true, warmup_ratio: 0.1 });
  assert.equal(config.learningRate, 2e-5);
  assert.equal(config.loggingSteps, 10);
  assert.equal(config.maxSeqLength, 512);
  assert.equal(config.warmupRatio, 0.1);
  assert.equal(sftValues(config).packing, true);
  assert.equal(new SFTConfig({ learningRate: 1e-3 }).learningRate, 1e-3);
  assert.equal(new SFTConfig({ learningRate: undefined }).learningRate, 2e-5);
});

test("snake_case, older names, and names given twice", () => {
  assert.equal(args({ per_device_train_batch_size: 4 }).perDeviceTrainBatchSize, 4);
  assert.equal(args({ evaluation_strategy: "epoch" }).evalStrategy, "epoch");
  assert.throws(() => args({ learning_rate: 1, learningRate: 2 }), /"learning_rate" and "learningRate" are the same/);
  assert.throws(() => args({ eval_strategy: "no", evaluationStrategy: "no" }), /are the same option/);
  assert.throws(() => new SFTConfig({ max_length: 1, maxSeqLength: 2 }), /"max_length" and "maxSeqLength"/);
});

test("a misspelt option names the nearest right one", () => {
  assert.throws(() => args({ learning_rat: 1 }), /unknown option "learningRat"; did you mean "learningRate"/);
});

test("options that follow from others", () => {
  const best = args({ loadBestModelAtEnd: true, evalStrategy: "steps", evalSteps: 100, saveSteps: 300 });
  assert.equal(best.metricForBestModel, "loss");
  assert.equal(best.greaterIsBetter, false);
  assert.equal(args({ metricForBestModel: "accuracy" }).greaterIsBetter, true);
  assert.equal(args({ metricForBestModel: "eval_math_loss" }).greaterIsBetter, false);
  assert.equal(args({ evalStrategy: "steps", loggingSteps: 7 }).evalSteps, 7);
  assert.equal(args({ groupByLength: true }).trainSamplingStrategy, "group_by_length");
  assert.deepEqual(args({ reportTo: "tensorboard" }).reportTo, ["tensorboard"]);
  assert.deepEqual(args({ reportTo: ["wandb", "tensorboard"] }).reportTo, ["tensorboard", "wandb"]);
  assert.deepEqual(args({ reportTo: "all" }).reportTo, ["tensorboard"]);
  assert.deepEqual(args({ reportTo: "none" }).reportTo, []);
});

const CONTRADICTIONS: [Record<string, unknown>, RegExp][] = [
  [{ fp16: true, bf16: true }, /fp16 and bf16 cannot both be true/],
  [{ lrSchedulerType: "reduce_lr_on_plateau" }, /needs evaluations/],
  [{ saveStrategy: "best", metricForBestModel: "loss" }, /saveStrategy "best" needs evaluations/],
  [{ saveStrategy: "best", evalStrategy: "epoch" }, /needs metricForBestModel/],
  [{ loadBestModelAtEnd: true }, /the same saveStrategy and evalStrategy.*found "steps" and "no"/],
  [
    { loadBestModelAtEnd: true, evalStrategy: "steps", evalSteps: 3, saveSteps: 4 },
    /multiple of evalSteps; found 4 and 3/,
  ],
  [{ loadBestModelAtEnd: true, evalStrategy: "steps", evalSteps: 0.1, saveSteps: 10 }, /multiple of evalSteps/],
  [{ groupByLength: true, trainSamplingStrategy: "sequential" }, /contradict/],
  [{ loggingSteps: 1.5 }, /loggingSteps: expected an integer, or a share/],
  [{ loggingSteps: 0 }, /loggingSteps/],
  [{ reportTo: "mlflow" }, /reportTo/],
  [{ optim: "sgd" }, /optim/],
];

for (const [options, message] of CONTRADICTIONS) {
  test(`${JSON.stringify(options)} is refused`, () => assert.throws(() => args(options), message));
}

test("shares that a decimal makes multiples are multiples", () => {
  args({ loadBestModelAtEnd: true, evalStrategy: "steps", evalSteps: 0.1, saveSteps: 0.3 });
});

test("torch's options are taken where they ask for nothing, and refused with the reason where they do", () => {
  args({
    remove_unused_columns: false,
    ddp_find_unused_parameters: false,
    dataloader_num_workers: 4,
    torch_compile: true,
    gradient_checkpointing_kwargs: { use_reentrant: false },
    push_to_hub: false,
    deepspeed: null,
    fsdp: [],
    hub_token: "x",
    optim: "paged_adamw_8bit",
  });
  assert.throws(() => args({ push_to_hub: true }), /pushToHub true cannot be had: it is not supported yet: save with/);
  assert.throws(() => args({ deepspeed: "zero3.json" }), /deepspeed "zero3\.json" cannot be had: .*one process/);
  assert.throws(() => args({ autoFindBatchSize: true }), /planned before the first step/);
  new SFTConfig({ dataset_num_proc: 2, padding_free: true, loss_type: "nll", dataset_kwargs: null });
  assert.throws(
    () => new SFTConfig({ loss_type: "dft" }),
    /lossType "dft" cannot be had: give another loss as computeLoss/,
  );
});

test("the example of Unsloth's notebooks", () => {
  const config = new SFTConfig({
    per_device_train_batch_size: 4,
    gradient_accumulation_steps: 2,
    warmup_steps: 5,
    max_steps: 200,
    learning_rate: 2e-4,
    fp16: true,
    bf16: false,
    logging_steps: 1,
    output_dir: "outputs",
    optim: "adamw_8bit",
    seed: 3407,
    weight_decay: 0.01,
    lr_scheduler_type: "linear",
    report_to: "none",
    dataset_num_proc: 2,
  });
  assert.ok(isEightBit(config.optim));
  assert.equal(trainingSteps(100, config).maxSteps, 200);
});

test("counts of steps, epochs and rows are Hugging Face's", () => {
  const counts = (rows: number, options: Record<string, unknown>) =>
    trainingSteps(rows, args({ perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2, ...options }));
  assert.deepEqual(counts(27, { numTrainEpochs: 2.5 }), {
    microbatchesPerEpoch: 14,
    stepsPerEpoch: 7,
    maxSteps: 18,
    numTrainEpochs: 3,
    numTrainSamples: 67.5,
  });
  assert.deepEqual(counts(27, { maxSteps: 20, dataloaderDropLast: true }), {
    microbatchesPerEpoch: 13,
    stepsPerEpoch: 7,
    maxSteps: 20,
    numTrainEpochs: 3,
    numTrainSamples: 80,
  });
  assert.throws(() => counts(1, { dataloaderDropLast: true }), /dataloaderDropLast leaves none of 1/);
  assert.throws(() => counts(0, {}), /no rows to train on/);
});

test("arguments as JSON have Hugging Face's names", () => {
  const json = JSON.parse(argumentsToJson(args({ adamBeta1: 0.8 }))) as Record<string, unknown>;
  assert.equal(json.per_device_train_batch_size, 8);
  assert.equal(json.adam_beta1, 0.8);
  assert.equal(json.learning_rate, 5e-5);
  assert.ok(!countsTokens(args({})) && countsTokens(args({ includeNumInputTokensSeen: true })));
});
