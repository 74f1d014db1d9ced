/** What scripts for Unsloth, TRL and PEFT pass: taken where it means something here, else an error that says what to do. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import {
  Dataset,
  DPOConfig,
  DPOTrainer,
  FastLanguageModel,
  GRPOConfig,
  GRPOTrainer,
  generate,
  getChatTemplate,
  ORPOTrainer,
  PeftModel,
  PPOTrainer,
  promptIds,
  RewardTrainer,
  SFTConfig,
  SFTTrainer,
  StreamingDataset,
  saveModel,
  TrainingArguments,
  trainOnResponsesOnly,
} from "../index.ts";

const modelName = fileURLToPath(new URL("../../models/tiny-math", import.meta.url));
const { model: base, tokenizer } = await FastLanguageModel.fromPretrained({
  model_name: modelName,
  max_seq_length: 64,
  dtype: null,
  load_in_4bit: true,
  device: "cpu",
  threads: 1,
  device_map: "auto",
  trust_remote_code: true,
  random_state: 3407,
  fast_inference: false,
  max_lora_rank: 64,
});
const model = await FastLanguageModel.getPeftModel(base, {
  r: 4,
  target_modules: ["q_proj", "v_proj"],
  lora_alpha: 16,
  use_gradient_checkpointing: "unsloth",
  random_state: 3407,
  loftq_config: null,
});
after(() => model.dispose());
const texts = Dataset.fromList(Array.from({ length: 4 }, (_, i) => ({ text: `${i}+1=${i + 1}` })));
const pairs = Dataset.fromList([{ prompt: "1+1=", chosen: "2", rejected: "3" }]);
const quiet = { logLevel: "error", saveStrategy: "no", maxSteps: 1, perDeviceTrainBatchSize: 2 } as const;
/** Options as JavaScript gives them. */
const js = (options: object): never => options as never;
const sft = (more: object): SFTTrainer =>
  new SFTTrainer(js({ model, tokenizer, trainDataset: texts, args: quiet, ...more }));

test("fromPretrained: Unsloth's other options, and what is passed in place of the options", async () => {
  const load = (options: unknown): Promise<unknown> => FastLanguageModel.fromPretrained(options as never);
  await assert.rejects(load("some/model"), /expected an object, \{ modelName: "some\/model" \}/);
  await assert.rejects(load({}), /fromPretrained: modelName is missing/);
  await assert.rejects(load({ model: modelName }), /it is called modelName/);
  await assert.rejects(load({ modelName, fastInference: true }), /without vLLM/);
  await assert.rejects(
    load({ modelName, dtype: "bf16" }),
    /expected "float32", "bfloat16", "float16" or null, found "bf16"/,
  );
  await assert.rejects(load({ modelName, device_map: { "": 0 } }), /deviceMap .*use device/);
});

test("getPeftModel and PeftModel.fromPretrained say what is not a model", async () => {
  const wrap = (given: unknown): Promise<unknown> => FastLanguageModel.getPeftModel(given as never, { r: 4 });
  await assert.rejects(wrap(Promise.resolve(base)), /is a Promise: await it/);
  await assert.rejects(wrap({ model: base, tokenizer }), /take \{ model, tokenizer \} out/);
  await assert.rejects(wrap(undefined), /first argument is the model/);
  await assert.rejects(wrap(model), /already has an adapter/);
  await assert.rejects(PeftModel.fromPretrained(js(model), "adapter"), /already has an adapter.*loadAdapter/);
  await assert.rejects(PeftModel.fromPretrained("adapter" as never, "x"), /first argument is the model/);
});

test("SFTTrainer takes its fields in snake_case, and settings under any of their names beside a configuration", () => {
  const given = {
    model,
    processing_class: tokenizer,
    train_dataset: texts,
    eval_dataset: texts,
    args: new TrainingArguments(quiet),
  };
  const old = new SFTTrainer(
    js({
      ...given,
      dataset_text_field: "text",
      max_seq_length: 32,
      dataset_num_proc: 2,
      packing: false,
      data_collator: null,
    }),
  );
  assert.equal(old.dataReport.recipe.rows, 4);
  old.dispose();
  const config = new SFTConfig({ ...quiet, maxLength: 48, datasetTextField: "text" });
  const both = new SFTTrainer(js({ ...given, args: config, max_seq_length: 2 }));
  assert.equal(both.dataReport.recipe.truncated, 4);
  both.dispose();
});

test("trainers say what is wrong with model, data and fields", () => {
  assert.throws(() => sft({ model: Promise.resolve(model) }), /SFTTrainer: model is a Promise: await it first/);
  assert.throws(() => sft({ model: modelName }), /model is the text .*load it first/);
  assert.throws(() => sft({ model: { model, tokenizer } }), /take \{ model, tokenizer \} out of it/);
  assert.throws(() => sft({ model: undefined }), /model is missing/);
  assert.throws(() => sft({ trainDataset: undefined }), /trainDataset is missing/);
  assert.throws(() => sft({ trainDataset: "train.jsonl" }), /is the text "train.jsonl": load it first/);
  assert.throws(() => sft({ trainDataset: Promise.resolve(texts) }), /trainDataset is a Promise/);
  assert.throws(() => sft({ trainDataset: [{ text: "a" }] }), /Dataset\.fromList\(rows\)/);
  assert.throws(() => sft({ trainDataset: { train: texts, test: texts } }), /has parts/);
  assert.throws(() => sft({ train_dataset: texts }), /"train_dataset" is given twice/);
  assert.throws(() => sft({ evalDatset: texts }), /unknown option "evalDatset"; did you mean "evalDataset"/);
  assert.throws(() => sft({ peft_config: { r: 8 } }), /no peft_config here: .*getPeftModel/);
  assert.throws(() => sft({ compute_loss_func: () => 0 }), /computeLoss/);
  assert.throws(() => new SFTTrainer(model as never), /expected one object, new SFTTrainer\(\{ model,/);
});

test("the other trainers take TRL's spelling, and refuse fields that they would ignore", () => {
  const fields = { model, processing_class: tokenizer, train_dataset: pairs };
  const config = new DPOConfig({ ...quiet, beta: 0.2, max_length: 64 });
  new DPOTrainer(js({ ...fields, ref_model: null, args: config })).dispose();
  // As in old releases of TRL, settings may stand beside the model.
  new DPOTrainer(js({ ...fields, beta: 0.3, max_length: 32, args: config })).dispose();
  new ORPOTrainer(js({ ...fields, ref_model: null, max_length: 32, args: quiet })).dispose();
  assert.throws(() => new ORPOTrainer(js({ ...fields, ref_model: base, args: quiet })), /no ref_model here/);
  const reward = ({ completions }: { completions: readonly unknown[] }): number[] => completions.map(() => 0);
  const prompts = { ...fields, reward_funcs: reward, train_dataset: Dataset.fromList([{ prompt: "1+1=" }]) };
  const args = new GRPOConfig({ ...quiet, num_generations: 2, max_completion_length: 4, use_vllm: false });
  new GRPOTrainer(js({ ...prompts, args })).dispose();
  const positional = (_: unknown, completions: readonly unknown[]): number[] => completions.map(() => 0);
  assert.throws(
    () => new GRPOTrainer(js({ ...prompts, reward_funcs: positional, args })),
    /takes 2 arguments; it gets one object/,
  );
  assert.throws(
    () => new GRPOTrainer(js({ ...prompts, beta: 0.1, args })),
    /unknown option "beta"; settings go into args/,
  );
  assert.throws(() => new PPOTrainer(js({ ...fields, value_model: base, args: quiet })), /addValueAdapter/);
  assert.throws(() => new RewardTrainer(js({ ...fields, train_datasets: pairs })), /did you mean "trainDataset"/);
});

test("train: resume_from_checkpoint in either spelling, nothing else", async () => {
  const trainer = sft({ args: { ...quiet, outputDir: "there-is-no-such-folder" } });
  try {
    await assert.rejects(trainer.train(js({ resume_from_checkpoint: true })), /no checkpoint-N folder/);
    await assert.rejects(trainer.train(true as never), /train: expected options, \{ resumeFromCheckpoint/);
    await assert.rejects(
      trainer.train(js({ resume: true })),
      /unknown option "resume"; there are resumeFromCheckpoint, signal/,
    );
  } finally {
    trainer.dispose();
  }
});

test("data sets: options in snake_case; unknown ones are errors", () => {
  assert.equal(texts.trainTestSplit(js({ test_size: 0.25 })).test.length, 1);
  assert.throws(() => texts.trainTestSplit(js({ tset_size: 0.25 })), /did you mean "testSize"/);
  const twice = (columns: { text: string[] }): { text: string[] } => ({
    text: columns.text.flatMap((text) => [text, text]),
  });
  assert.equal(
    (texts.map(twice as never, js({ batched: true, batch_size: 2, num_proc: 4 })) as unknown as Dataset).length,
    8,
  );
  assert.throws(() => texts.map((row) => row, js({ remove_columns: ["text"] })), /map: .*removeColumns\(names\)/);
});

test("saving says what is not a model, or that no folder was given", async () => {
  await assert.rejects(saveModel(model as never, "folder"), /mergeAndUnload\(\), folder/);
  await assert.rejects(saveModel("folder" as never, base as never), /expected a model and a folder/);
  await assert.rejects(model.savePretrained(undefined as never), /folder to write is missing/);
});

test("Dataset.load: files are given, options checked", async () => {
  await assert.rejects(Dataset.load("json", js({ data_files: "x.jsonl" })), /give the files themselves/);
  await assert.rejects(Dataset.load("x.jsonl", js({ spilt: "train" })), /did you mean "split"/);
  await assert.rejects(StreamingDataset.load({ path: "x" } as never), /expected a path/);
  await assert.rejects(Dataset.fromJsonl(undefined as never), /expected a path/);
});

test("conversations: applyChatTemplate's options in snake_case, variables of the template, what is not a conversation", () => {
  const messages = [{ role: "user", content: "hi" }];
  const wanted = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
  const given = { tokenize: true, add_generation_prompt: true, return_tensors: "pt", enable_thinking: false };
  assert.deepEqual(tokenizer.applyChatTemplate(messages, js(given)), wanted);
  const chat_template = "{{ greeting }}{% if add_generation_prompt %}!{% endif %}";
  const custom = { tokenize: false, chat_template, greeting: "hello", add_generation_prompt: true };
  assert.equal(tokenizer.applyChatTemplate(messages, js(custom)) as unknown, "hello!");
  assert.throws(() => tokenizer.applyChatTemplate(messages, js({ addGenerationPromt: true })), /did you mean/);
  assert.throws(() => tokenizer.applyChatTemplate("hi" as never), /list of messages/);
  assert.throws(() => promptIds(tokenizer, messages as never), /applyChatTemplate\(messages/);
});

test("trainOnResponsesOnly: Unsloth's spelling of the parts; unknown ones are errors", () => {
  const parts = { instruction_part: "Q:", response_part: "A:", num_proc: 2 };
  assert.deepEqual(trainOnResponsesOnly(texts, js(parts)).responses, { instructionPart: "Q:", responsePart: "A:" });
  assert.throws(() => trainOnResponsesOnly(texts, js({ instruction: "Q:" })), /unknown option "instruction"/);
});

test("getChatTemplate: name and options in one object", () => {
  const named = getChatTemplate(tokenizer, js({ chat_template: "llama-3.1", map_eos_token: false }));
  assert.equal(named.chatTemplate, getChatTemplate(tokenizer, "llama-3.1", { mapEosToken: false }).chatTemplate);
  assert.throws(() => getChatTemplate(tokenizer, "chatml", js({ maping: {} })), /did you mean "mapping"/);
});

test("methods by their Python names, and those that are elsewhere, say where", async () => {
  const call = (target: object, name: string): unknown => (target as Record<string, () => unknown>)[name]!();
  const cases: readonly (readonly [object, string, RegExp])[] = [
    [FastLanguageModel, "from_pretrained", /FastLanguageModel\.from_pretrained is called fromPretrained here/],
    [FastLanguageModel, "for_inference", /forInference/],
    [model, "save_pretrained", /called savePretrained/],
    [model, "merge_and_unload", /called mergeAndUnload/],
    [model, "save_pretrained_merged", /mergeAndUnload\(\).*saveModel|saveModel.*mergeAndUnload\(\)/],
    [model, "savePretrainedGguf", /llama\.cpp/],
    [model, "push_to_hub", /pushToHub\(folder, id\)/],
    [base, "savePretrained", /saveModel\(model, folder\)/],
    [base, "generate", /promptIds/],
    [tokenizer, "apply_chat_template", /applyChatTemplate/],
    [Dataset, "from_list", /Dataset\.from_list is called fromList/],
    [texts, "train_test_split", /trainTestSplit/],
    [StreamingDataset.prototype, "remove_columns", /removeColumns/],
    [SFTTrainer.prototype, "save_model", /saveModel/],
    [PeftModel, "from_pretrained", /PeftModel\.from_pretrained is called fromPretrained/],
  ];
  for (const [target, name, expected] of cases) {
    assert.throws(() => call(target, name), expected, name);
  }
  assert.deepEqual(Object.keys(FastLanguageModel), ["fromPretrained", "getPeftModel", "forInference", "forTraining"]);
});

test("generate takes a model with its adapter, and token ids only", async () => {
  const [answer] = await generate(model, tokenizer, [promptIds(tokenizer, "1+1=")], { maxNewTokens: 2 });
  assert.ok(answer!.tokens.length > 0);
  await assert.rejects(generate(model, tokenizer, ["1+1="] as never), /promptIds\(tokenizer, text\)/);
  await assert.rejects(generate({} as never, tokenizer, [[1]]), /expected a model/);
});
