import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend, DeviceTensor } from "../backends/backend.ts";
import type { CausalLM } from "../models/model.ts";
import { loadAdapter, saveAdapter } from "./adapter-files.ts";
import { attachLora } from "./attach.ts";
import { BaseChanges } from "./base-changes.ts";
import { getPeftModel } from "./get-peft-model.ts";
import { oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";

const OPTIONS = { r: 4, loraAlpha: 4, targetModules: ["q_proj", "down_proj"] };
const LOFTQ = { initLoraWeights: "loftq", loftqConfig: { loftqBits: 4, loftqIter: 2 } };
const LLAMA = "families/llama/model";

/** Calls whose `failing`th fails, as if there were no memory for what it does; counted by the last. */
function injectFailure(backend: Backend, model: CausalLM, failing: number): { made: () => number; stop: () => void } {
  const stops: (() => void)[] = [];
  let made = 0;
  const fails = (): void => {
    if (made++ === failing) throw new Error("no memory");
  };
  const wrap = <K extends string>(owner: Record<K, (...args: never[]) => unknown>, name: K): void => {
    const own = Object.hasOwn(owner, name);
    const before = owner[name];
    owner[name] = (...args: never[]) => {
      fails();
      return before.apply(owner, args);
    };
    stops.push(() => {
      if (own) owner[name] = before;
      else delete (owner as Partial<typeof owner>)[name];
    });
  };
  for (const name of ["createTensor", "quantize", "dequantize", "compile"] as const) wrap(backend as never, name);
  for (const tensor of model.parameters.values()) for (const name of ["read", "write"]) wrap(tensor as never, name);
  return { made: () => made, stop: () => stops.forEach((stop) => void stop()) };
}

interface Weight {
  tensor: DeviceTensor;
  parts: Uint8Array[];
  nestedOffset: number;
}

async function weightsOf(model: CausalLM): Promise<Map<string, Weight>> {
  const weights = new Map<string, Weight>();
  for (const [name, tensor] of model.parameters) {
    const parts = await Promise.all([...tensor.parts.keys()].map((part) => tensor.read(part)));
    weights.set(name, { tensor, parts, nestedOffset: tensor.nestedOffset });
  }
  return weights;
}

async function assertUnchanged(model: CausalLM, before: ReadonlyMap<string, Weight>, label: string): Promise<void> {
  for (const [name, now] of await weightsOf(model)) {
    const { tensor, parts, nestedOffset } = before.get(name)!;
    assert.equal(now.tensor, tensor, `${label}: ${name} is another tensor`);
    const same = parts.every((bytes, i) => Buffer.from(bytes).equals(now.parts[i]!));
    assert.ok(same && nestedOffset === now.nestedOffset, `${label}: ${name} has changed`);
  }
}

const CASES: Record<string, { path?: string; load?: object; options: Record<string, unknown>; atLeast: number }> = {
  pissa: { options: { initLoraWeights: "pissa" }, atLeast: 20 },
  "pissa with DoRA": { options: { initLoraWeights: "pissa_niter_2", useDora: true }, atLeast: 40 },
  olora: { options: { initLoraWeights: "olora" }, atLeast: 20 },
  "olora of 4-bit weights": { path: "nf4/model_f32", options: { initLoraWeights: "olora" }, atLeast: 20 },
  loftq: { options: LOFTQ, atLeast: 30 },
  "loftq of 4-bit weights": { load: { loadIn4bit: true }, options: LOFTQ, atLeast: 20 },
};

for (const [name, { path = LLAMA, load, options, atLeast }] of Object.entries(CASES)) {
  test(`${name}: whatever fails, base weights are as they were, byte for byte`, async (t) => {
    const backend = await testBackend(t);
    using model = await oracleModel(backend, path, load);
    const before = await weightsOf(model);
    const { tensors } = backend.memory();
    for (let failing = 0; ; failing++) {
      const failure = injectFailure(backend, model, failing);
      try {
        const adapter = await attachLora(model, { ...OPTIONS, ...options });
        assert.ok(failing >= atLeast && failure.made() === failing, `${failing} calls could have failed`);
        adapter.dispose();
        break;
      } catch (error) {
        if ((error as Error).message !== "no memory") throw error;
      } finally {
        failure.stop();
      }
      assert.equal(model.adapter, null);
      await assertUnchanged(model, before, `call ${failing}`);
      assert.deepEqual(backend.memory().tensors, tensors, `call ${failing} left memory taken`);
    }
    await assert.rejects(assertUnchanged(model, before, "in the end"), /_proj.weight (has changed|is another tensor)/);
  });
}

test("an adapter read onto weights that it changes leaves them as they were when it fails", async (t) => {
  const backend = await testBackend(t);
  const folder = scratchFolder(t);
  using model = await oracleModel(backend, LLAMA);
  const before = await weightsOf(model);
  const plain = await attachLora(model, { ...OPTIONS, initLoraWeights: false, useDora: true });
  await saveAdapter(plain, folder);
  plain.dispose();
  const { readFileSync, writeFileSync } = await import("node:fs");
  const file = `${folder}/adapter_config.json`;
  writeFileSync(file, readFileSync(file, "utf8").replace('"init_lora_weights": false', '"init_lora_weights": "pissa"'));
  let failing = 0;
  for (let done = false; !done; failing++) {
    const failure = injectFailure(backend, model, failing);
    try {
      (await loadAdapter(model, folder)).dispose();
      done = true;
    } catch (error) {
      if ((error as Error).message !== "no memory") throw error;
      failure.stop();
      await assertUnchanged(model, before, `call ${failing}`);
    } finally {
      failure.stop();
    }
  }
  assert.ok(failing > 30, `${failing}`);
});

test("a name that cannot be an adapter's is refused before weights are changed", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, LLAMA);
  const before = await weightsOf(model);
  const options = { ...OPTIONS, initLoraWeights: "pissa", adapterName: "../other" };
  await assert.rejects(getPeftModel(model, options), /adapter name "..\/other"/);
  await assertUnchanged(model, before, "refused");
});

test("weights that cannot be put back are an error that says so, and the others are put back", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, LLAMA);
  const before = await weightsOf(model);
  const [first, second] = [...model.parameters.values()];
  const changes = new BaseChanges(model);
  for (const tensor of [first!, second!]) {
    await changes.keep(tensor);
    tensor.write(new Uint8Array(tensor.bytes));
  }
  second!.write = () => {
    throw new Error("the device is gone");
  };
  const why = new Error("no memory");
  assert.throws(
    () => changes.undo(why),
    (error: AggregateError) => {
      assert.match(error.message, /^1 of the model's weights could not be put back .*: load the model again$/);
      assert.equal(error.cause, why);
      return error.errors.length === 2;
    },
  );
  assert.deepEqual(await first!.read(), before.get(first!.name)!.parts[0]);
});
