import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../data/index.ts";
import type { Node, Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import { createRandomModel } from "../../models/load/random.ts";
import { sub } from "../../ops/elementwise.ts";
import { sum } from "../../ops/reduce.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { getPeftModel } from "../../peft/index.ts";
import type { ComputeLoss, Forward } from "../../train/loss.ts";
import { StepRunner } from "../../train/step.ts";
import { planForward } from "../../train/step-programs.ts";
import { CollectingBackend } from "./collect.test.support.ts";
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

const referenceLogps: Forward = ({ traceWith, tokens, labels }) => {
  const reference = traceWith(null);
  return { logps: reference.logProbs(reference.hidden(tokens), { labels }).logps };
};

/** What a policy's tokens are more likely by than a reference's: the start of every preference loss. */
const margin: ComputeLoss = (context) => {
  const { logps } = referenceLogps(context);
  const { trace, hidden, labels } = context;
  return { loss: sum(sub(trace.logProbs(hidden(), { labels }).logps, logps!)) };
};

/** What the forward steps of a program do, in their order, and which of their inputs' memory they write to. */
function forwardWork(program: Program): string[] {
  const place = (value: Value): string => {
    const at = program.locate(value);
    return at.kind === "tensor" ? `tensor ${at.value.name}` : `${at.kind} ${at.offset}`;
  };
  const describe = ({ op, attrs, inputs, outputs }: Node): string => {
    const others = Object.entries(attrs).filter(([name]) => !name.startsWith("alpha2"));
    const over = outputs.flatMap((out) =>
      inputs.flatMap((value, i) => (value && place(value) === place(out) ? [i] : [])),
    );
    const specs = [...inputs, ...outputs].map((value) => value && `${value.dtype}${value.shape}`);
    return JSON.stringify([op.name, others, specs, op.placeMatters ? over : []]);
  };
  const layers = program.steps.filter(({ phase, op, scope }) => {
    return phase === "forward" && !op.view && /^(embed_tokens|layers|norm)/.test(scope);
  });
  return layers.map(describe);
}

for (const dtype of ["bf16", "f16"] as const) {
  for (const loadIn4bit of [false, true]) {
    for (const kind of ["keep", "minimum"] as const) {
      test(`a reference in the program of a training step does the policy's work, ${dtype}, ${loadIn4bit ? "NF4" : "16-bit weights"}, ${kind}`, async () => {
        const backend = new CollectingBackend(dtype, dtype === "bf16" ? 90 : 75);
        const model = await createRandomModel({ config: CONFIG, backend, loadIn4bit });
        const peft = await getPeftModel(model, { r: 8, loraAlpha: 16 });
        const optimizer = new Optimizer(backend, peft.trainable(), ADAM);
        const options = { model, optimizer, policy: { kind }, maxPositions: 2048, computeLoss: margin };
        const runner = new StepRunner(options);
        for (const tokens of [100, 2048]) {
          const work = forwardWork(runner.program("train", tokens));
          const half = work.length / 2;
          assert.ok(half > 8 * CONFIG.num_hidden_layers);
          assert.equal(work.slice(0, half).join("\n"), work.slice(half).join("\n"));
          const alone = planForward(options, "reference", referenceLogps, { tokens, inputs: new Map() });
          assert.equal(forwardWork(alone).join("\n"), work.slice(half).join("\n"));
        }
      });
    }
  }
}

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
