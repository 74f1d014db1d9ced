import assert from "node:assert/strict";
import { test } from "node:test";
import type { Node, Value } from "../../graph/graph.ts";
import type { CheckpointPolicy } from "../../graph/plan.ts";
import type { Program } from "../../graph/program.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { getPeftModel } from "../../peft/index.ts";
import { allTrainables, tinyModel } from "../../testing/tiny-model.ts";
import { StepRunner } from "../../train/step.ts";
import { CollectingBackend } from "./collect.test.support.ts";

/**
 * Whatever is kept, recomputed or offloaded, every step is the same work: of the same types and shapes, and the library's
 * products with their results over the same ones of their inputs. (Our own kernels read what they write over first.)
 */

const ADAM = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
const ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const wide = { hidden_size: 128, intermediate_size: 256, head_dim: 32, num_hidden_layers: 2 };

/** What a step does, and over which of its inputs, by the name of what it computes. */
function works(program: Program): Map<string, string[]> {
  const place = (value: Value): string => {
    const at = program.locate(value);
    return at.kind === "tensor" ? `tensor ${at.value.name}` : `${at.kind} ${at.offset}`;
  };
  // A value's memory may be that of another whose life has ended: only inputs of the same step count.
  const describe = ({ op, attrs, inputs, outputs }: Node): string => {
    const product = op.name.startsWith("matmul") || op.name === "lora_grad";
    const over = (product ? outputs : []).map((out) =>
      inputs.flatMap((value, i) => (value && place(value) === place(out) ? [i] : [])),
    );
    const specs = [...inputs, ...outputs].map((value) => value && `${value.dtype}${value.shape}`);
    return JSON.stringify([op.name, attrs, specs, over]);
  };
  const found = new Map<string, string[]>();
  for (const node of program.steps) {
    if (["offload", "fetch", "copy_wait"].includes(node.op.name) || node.op.view) continue;
    const { name } = node.outputs[0]!;
    const key = node.recomputeOf ? node.recomputeOf.outputs[0]!.name : name;
    found.set(key, [...(found.get(key) ?? []), describe(node)]);
  }
  return found;
}

for (const family of ["llama", "gemma2"]) {
  for (const kind of ["full", "LoRA", "LoRA of 4-bit weights", "DoRA"]) {
    test(`recomputed and offloaded steps are the kept ones, ${family}, ${kind}`, async () => {
      const backend = new CollectingBackend("bf16", 90);
      const model = tinyModel(backend, family, wide);
      for (const [name, { shape }] of kind.includes("4-bit") ? model.parameters : []) {
        if (!name.endsWith("_proj.weight")) continue;
        model.parameters.set(name, backend.createTensor(name, "nf4", shape, { role: "weight" }));
      }
      const options = { r: 4, loraDropout: 0.1, useDora: kind === "DoRA", targetModules: ALL };
      const trainables = kind === "full" ? allTrainables(model) : (await getPeftModel(model, options)).trainable();
      const optimizer = new Optimizer(backend, trainables, ADAM);
      for (const tokens of [64, 1024]) {
        const program = (policy: CheckpointPolicy, offload = false): Program =>
          new StepRunner({ model, optimizer, policy, offload, maxPositions: 1024 }).program("train", tokens);
        const kept = program({ kind: "keep" });
        const least = program({ kind: "minimum" });
        const bytes = Math.round((kept.arenaBytes + least.arenaBytes) / 2);
        const others = [
          program({ kind: "recompute" }),
          least,
          program({ kind: "budget", bytes }),
          program({ kind: "recompute" }, true),
          program({ kind: "minimum" }, true),
          program({ kind: "budget", bytes }, true),
        ];
        const expected = works(kept);
        for (const other of others) {
          const found = works(other);
          assert.deepEqual(new Set(found.keys()), new Set(expected.keys()));
          for (const [name, all] of found) for (const one of all) assert.equal(one, expected.get(name)![0], name);
        }
        assert.ok(others.some(({ steps }) => steps.length > kept.steps.length));
      }
    });
  }
}
