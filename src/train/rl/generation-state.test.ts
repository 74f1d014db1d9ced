import assert from "node:assert/strict";
import { test } from "node:test";
import { FormatError } from "../../formats/errors.ts";
import { type Generation, generationFromJson, generationToJson } from "./generation-state.ts";

const generation: Generation = {
  epoch: 1,
  index: 2,
  samples: [{ prompt: [1, 2], completion: [3, 4], advantage: -0.1, trained: true, old: [-1.5, -0.25], ref: null }],
};
const copy = (): Record<string, unknown> => JSON.parse(JSON.stringify(generationToJson(generation)));

test("a generation comes back from JSON as it was; none stays none", () => {
  assert.deepEqual(generationFromJson(copy(), "state.json"), generation);
  assert.equal(generationFromJson(null, "state.json"), null);
});

test("what is wrong in a checkpoint's generation is named with file and field", () => {
  const broken = (change: (json: { samples: Record<string, unknown>[] }) => void): (() => unknown) => {
    const json = copy();
    change(json as never);
    return () => generationFromJson(json, "state.json");
  };
  const sample = (field: string, value: unknown) =>
    broken(({ samples }) => void Object.assign(samples[0]!, { [field]: value }));
  for (const [body, field] of [
    [broken((json) => void Object.assign(json, { epoch: -1 })), "epoch"],
    [broken((json) => void Object.assign(json, { samples: 3 })), "samples"],
    [sample("completion", "t3"), "completion"],
    [sample("advantage", null), "advantage"],
    [sample("trained", 1), "trained"],
    [sample("old", [1]), "old"],
  ] as const) {
    assert.throws(
      body,
      (error) => error instanceof FormatError && error.message.includes(`state.json`) && error.message.includes(field),
    );
  }
});
