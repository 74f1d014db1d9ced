import assert from "node:assert/strict";
import { test } from "node:test";
import { DecodingSession } from "../generate/session.ts";
import { readAdapter, saveAdapter } from "../peft/adapter-files.ts";
import { createLora } from "../peft/attach.ts";
import { FrozenAdapter } from "../peft/frozen-adapter.ts";
import { getPeftModel } from "../peft/index.ts";
import { leakedBytes } from "../testing/memory-faults.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { inFolder, openBackend, quietTrainer, randomRows, source, tinyPeft } from "./tiny-training.test.support.ts";

const backend = await openBackend();
const smallModel = () => tinyModel(backend, "llama", { num_hidden_layers: 1, tie_word_embeddings: false });

test("a decoding session that there is no memory for leaves none taken", async () => {
  const model = smallModel();
  assert.deepEqual(await leakedBytes(backend, () => new DecodingSession(model, 2, 8)), {});
});

test("nor does an adapter, new, read or copied", async () => {
  const model = smallModel();
  for (const options of [
    { useDora: true, trainableTokenIndices: [3, 4] },
    { bias: "all", modulesToSave: ["lm_head"] },
  ]) {
    const lora = { r: 2, targetModules: ["q_proj", "up_proj"], ...options } as const;
    assert.deepEqual(await leakedBytes(backend, () => createLora(model, lora, "test")), {});
    await inFolder(async (folder) => {
      const adapter = await createLora(model, lora, "test");
      await saveAdapter(adapter, folder);
      for (const isTrainable of [true, false]) {
        assert.deepEqual(await leakedBytes(backend, () => readAdapter(model, folder, { isTrainable })), {});
      }
      assert.deepEqual(await leakedBytes(backend, () => FrozenAdapter.of(adapter)), {});
      adapter.dispose();
    });
  }
});

test("nor does a trainer, whose optimizer takes most", async () => {
  const model = await tinyPeft(backend);
  const adalora = await getPeftModel(smallModel(), {
    peftType: "ADALORA",
    targetModules: ["q_proj"],
    initR: 3,
    targetR: 2,
    tinit: 1,
    tfinal: 1,
    totalStep: 10,
  });
  const trainer = (trained: typeof model, args: Record<string, unknown>) =>
    quietTrainer(trained, {
      train: source(randomRows(8)),
      args: { maxSteps: 10, perDeviceTrainBatchSize: 2, ...args },
    });
  assert.deepEqual(await leakedBytes(backend, () => trainer(model, { optim: "adamw_torch" })), {});
  assert.deepEqual(await leakedBytes(backend, () => trainer(model, { optim: "adamw_8bit" })), {});
  assert.deepEqual(await leakedBytes(backend, () => trainer(adalora, {})), {});
  // Nor where its settings cannot be.
  const before = backend.memory().tensors;
  assert.throws(() => trainer(adalora, { maxSteps: 2 }), /AdaLoRA/);
  assert.deepEqual(backend.memory().tensors, before);
});
