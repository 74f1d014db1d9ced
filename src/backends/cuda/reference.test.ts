import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../data/index.ts";
import { createRandomModel } from "../../models/load/random.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { getPeftModel } from "../../peft/index.ts";
import { StepRunner } from "../../train/step.ts";
import { gpu, skipOf } from "./gpu.test.support.ts";

/** Wide enough for products with folded updates, which 4-bit weights of gate and up have. */
const CONFIG = {
  model_type: "llama",
  vocab_size: 512,
  hidden_size: 128,
  intermediate_size: 384,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  initializer_range: 0.3,
};
const ADAM = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };

for (const dtype of ["bf16", "f16"] as const) {
  for (const loadIn4bit of [false, true]) {
    for (const length of [100, 2048]) {
      const what = `${dtype}, ${loadIn4bit ? "NF4" : "16-bit weights"}, ${length} tokens`;
      test(`an adapter that does nothing yet has its reference's log-probabilities to the bit (CUDA, ${what})`, {
        skip: skipOf(dtype),
      }, async () => {
        const backend = gpu(dtype);
        const storage = { loadIn4bit, dtype: dtype === "bf16" ? "bfloat16" : "float16" } as const;
        const model = await createRandomModel({ config: CONFIG, backend, ...storage });
        const peft = await getPeftModel(model, { r: 16, loraAlpha: 16 });
        const optimizer = new Optimizer(backend, peft.trainable(), ADAM);
        const runner = new StepRunner({ model, optimizer, policy: { kind: "keep" }, maxPositions: length });
        const inputIds = Int32Array.from({ length }, (_, i) => (i * 37 + 11) % CONFIG.vocab_size);
        const batch = collate([[{ inputIds, labels: inputIds }]], length);
        const { policy, reference } = await runner.forward(batch, "both", ({ traceWith, tokens, labels }) => {
          const of = (trace: ReturnType<typeof traceWith>) => trace.logProbs(trace.hidden(tokens), { labels }).logps;
          return { policy: of(traceWith(model.adapter)), reference: of(traceWith(null)) };
        });
        runner.dispose();
        optimizer.dispose();
        peft.dispose();
        assert.ok(policy!.some((value) => value < -1));
        assert.deepEqual(reference, policy);
      });
    }
  }
}
