/** What the tests of reinforcement learning share: a tokenizer of words, and comparisons with TRL's fixtures. */
import assert from "node:assert/strict";
import { oracleFloats, oracleTensors } from "../../testing/oracle.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { LogRow, TrainerCallback } from "../callbacks.ts";

/** Words t0, t1, …: token i is "t<i>"; 0 pads, 2 ends, both special. */
export function wordTokenizer(vocabSize = 101): Tokenizer {
  const special = new Set([0, 1, 2]);
  const words = {
    vocabSize,
    eosTokenIds: [2],
    eosTokenId: 2,
    padTokenId: 0,
    encode: (text: string) => (text === "" ? [] : text.split(" ").map((word) => Number(word.slice(1)))),
    decode: (ids: Iterable<number>) =>
      [...ids]
        .filter((id) => !special.has(id))
        .map((id) => `t${id}`)
        .join(" "),
    applyChatTemplate: (messages: readonly { content: string }[]) =>
      messages.flatMap(({ content }) => [1, ...words.encode(content)]),
    savePretrained: async () => [],
  };
  return words as unknown as Tokenizer;
}

/** Keeps the gradients of some updates, counted from 1, by "<update>.<tensor's name>". */
export function gradientKeeper(updates: readonly number[], kept: Map<string, Float32Array>): TrainerCallback {
  return {
    async onPreOptimizerStep({ optimizer }) {
      const step = optimizer.step + 1;
      if (!updates.includes(step)) return;
      for (const trainable of optimizer.trainables) {
        const bytes = await optimizer.gradient(trainable).read();
        kept.set(
          `${step}.${trainable.name}`,
          new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4).slice(),
        );
      }
    },
  };
}

/** Largest error of gradients, each tensor's relative to its largest element. */
export function gradientError(kept: ReadonlyMap<string, Float32Array>, ...fixture: string[]): number {
  const expected = oracleTensors(...fixture);
  assert.deepEqual(new Set(kept.keys()), new Set(expected.keys()));
  let worst = 0;
  for (const [name, own] of kept) {
    const theirs = oracleFloats(expected, name);
    const largest = theirs.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-30);
    assert.equal(own.length, theirs.length);
    theirs.forEach((x, i) => {
      worst = Math.max(worst, Math.abs(own[i]! - x) / largest);
    });
  }
  return worst;
}

/** Largest relative error of log rows (of numbers near 0, that of 0.01); every key of theirs must be there. */
export function logError(own: readonly LogRow[], theirs: readonly LogRow[]): { error: number; where: string } {
  let worst = { error: 0, where: "" };
  assert.equal(own.length, theirs.length);
  theirs.forEach((row, i) => {
    for (const [key, value] of Object.entries(row)) {
      // A deviation of one number is not a number, which TRL's log has as null.
      if (value === null) continue;
      assert.ok(key in own[i]!, `row ${i} lacks ${key}`);
      const error = Math.abs(own[i]![key]! - value) / Math.max(1e-2, Math.abs(value));
      if (!(error <= worst.error)) worst = { error, where: `row ${i}: ${key} is ${own[i]![key]}, expected ${value}` };
    }
  });
  return worst;
}
