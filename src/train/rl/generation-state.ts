import { FormatError, show } from "../../formats/errors.ts";
import type { Sample } from "./samples.ts";

/** A generation being trained on: the `index`-th of its epoch. */
export interface Generation {
  readonly epoch: number;
  readonly index: number;
  readonly samples: readonly Sample[];
}

/** As plain JSON, numbers to the last bit. */
export const generationToJson = (generation: Generation): unknown => generation;

/** What `generationToJson` made, from a checkpoint's file; null: there was none. Throws FormatError. */
export function generationFromJson(json: unknown, file: string): Generation | null {
  if (json === null) return null;
  const fail = (field: string, found: unknown, expected: string): never => {
    throw new FormatError({ file, field: `source.generation.${field}`, found: show(found), expected });
  };
  const { epoch, index, samples } = json as { epoch?: unknown; index?: unknown; samples?: unknown };
  if (!isCount(epoch)) return fail("epoch", epoch, "a whole number from 0");
  if (!isCount(index)) return fail("index", index, "a whole number from 0");
  if (!Array.isArray(samples)) return fail("samples", samples, "a list");
  for (const [i, sample] of samples.entries()) {
    const { prompt, completion, advantage, trained, old, ref } = (sample ?? {}) as Record<string, unknown>;
    if (!isNumbers(prompt)) fail(`samples[${i}].prompt`, prompt, "token ids");
    if (!isNumbers(completion)) return fail(`samples[${i}].completion`, completion, "token ids");
    if (typeof advantage !== "number") fail(`samples[${i}].advantage`, advantage, "a number");
    if (typeof trained !== "boolean") fail(`samples[${i}].trained`, trained, "true or false");
    for (const [name, values] of Object.entries({ old, ref })) {
      if (values === null || (isNumbers(values) && values.length === completion.length)) continue;
      fail(`samples[${i}].${name}`, values, `null, or ${completion.length} numbers`);
    }
  }
  return { epoch, index, samples: samples as Sample[] };
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isNumbers = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((item) => typeof item === "number");
