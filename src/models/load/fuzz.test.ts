import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FormatError } from "../../formats/errors.ts";
import { fixtures, seededRandom, temporaryFolder, withBytes } from "../../formats/files.test.support.ts";
import { MemoryPlanError } from "../../graph/types.ts";
import { ConfigError } from "../config.ts";
import { copiedModel, familyModel } from "./checkpoint.test.support.ts";
import { densePieces } from "./convert.ts";
import { openModel } from "./load.ts";
import { matchWeights } from "./match.ts";
import { checkMemory } from "./memory.ts";
import { planStorage } from "./storage.ts";

/** Everything loading does but filling tensors: true, or one of the errors it may throw. Others go through. */
function accepts(path: string): boolean {
  try {
    using source = openModel(path);
    const stored = planStorage(matchWeights(source).weights, {});
    checkMemory(path, stored, {}, 2 ** 30);
    for (const { weight } of stored) {
      if (weight.kind === "dense") for (const piece of densePieces(weight, "f32")) assert.ok(piece.byteLength > 0);
    }
    return true;
  } catch (error) {
    const known = [FormatError, ConfigError, MemoryPlanError].some((kind) => error instanceof kind);
    if (known) return false;
    throw error;
  }
}

/** Flip, replace, remove or repeat a few of the first `length` bytes. */
function damaged(bytes: Buffer, length: number, random: (n: number) => number): Buffer {
  const copy = Buffer.from(bytes);
  for (let i = 1 + random(3); i > 0; i--) {
    const at = random(length);
    const kind = random(4);
    if (kind === 0) copy[at]! ^= 1 << random(8);
    else if (kind === 1) copy[at] = random(256);
    else if (kind === 2) copy.copyWithin(at, at + 1 + random(8));
    else copy.copyWithin(at + 1 + random(8), at);
  }
  return copy;
}

test("400 damaged GGUF headers: a model, or an error that says why not", (t) => {
  const path = join(temporaryFolder(t), "bad.gguf");
  const whole = readFileSync(join(fixtures("oracle"), "gguf_models", "llama-q8_0.gguf"));
  const random = seededRandom(3);
  assert.ok(withBytes(path, whole, accepts));
  let accepted = 0;
  for (let i = 0; i < 400; i++) if (withBytes(path, damaged(whole, 2200, random), accepts)) accepted++;
  assert.ok(accepted < 300, `${accepted} went unnoticed`);
});

test("400 damaged config.json: a model, or an error that says why not", (t) => {
  const folder = copiedModel(t, familyModel("llama3"));
  const file = join(folder, "config.json");
  const whole = readFileSync(file);
  const random = seededRandom(4);
  assert.ok(accepts(folder));
  let accepted = 0;
  for (let i = 0; i < 400; i++) {
    writeFileSync(file, damaged(whole, whole.length, random));
    if (accepts(folder)) accepted++;
  }
  // Many fields are not the decoder's, and a digit more or less may be as good.
  assert.ok(accepted < 300, `${accepted} went unnoticed`);
});
