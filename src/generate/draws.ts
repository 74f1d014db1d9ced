import type { DeviceTensor } from "../backends/backend.ts";
import type { CausalLM } from "../models/model.ts";
import { SAMPLING_SETTINGS } from "../ops/sampling.ts";

/** How the next tokens are drawn (sampleOp's settings) and with which random numbers. */
export interface Draws extends Readonly<Record<(typeof SAMPLING_SETTINGS)[number], number>> {
  readonly seed: number;
  /** Draw of each sequence: its numbers depend on the seed, its own index and this. */
  readonly step: number;
  /** Index of the session's first sequence. */
  readonly firstIndex: number;
}

export interface Drawn {
  readonly token: number;
  /** Natural logarithm of its probability over the whole vocabulary at the temperature, before the penalty. */
  readonly logProb: number;
}

/** Whether tokens that were there before make a difference. */
export const needsSeen = ({ repetitionPenalty }: Draws): boolean => repetitionPenalty !== 1;

/** Inputs of a program that draws `rows` tokens, the first ones for these sequences (negative: nothing is drawn). */
export function drawInputs(draws: Draws, sequences: readonly number[], rows: number) {
  const drawRows = new Int32Array(rows).fill(-1);
  drawRows.set(sequences);
  return {
    settings: Float32Array.from(SAMPLING_SETTINGS, (name) => draws[name]),
    draws: randomWords(draws, sequences, rows),
    drawRows,
  };
}

/** Key and counter of every row's random numbers (see sampleOp), `later` steps from the first. */
export function randomWords(draws: Draws, sequences: readonly number[], rows: number, later = 0): Uint32Array {
  const words = new Uint32Array(4 * rows);
  const key = [draws.seed >>> 0, Math.floor(draws.seed / 2 ** 32)];
  sequences.forEach((sequence, i) => {
    words.set([...key, draws.firstIndex + sequence, draws.step + later], 4 * i);
  });
  return words;
}

/** A bit for every token that a sequence has, in the model's memory. */
export class SeenTokens {
  readonly tensor: DeviceTensor;
  private readonly words: number;

  constructor({ backend, config }: CausalLM, sequences: number) {
    this.words = Math.ceil(config.vocabSize / 32);
    this.tensor = backend.createTensor("seen", "u32", [sequences, this.words], { role: "cache" });
  }

  /** Start the first sequences from prompts, each in so many copies. */
  set(prompts: readonly (readonly number[])[], copies: number): void {
    const bits = new Uint32Array(prompts.length * copies * this.words);
    prompts.forEach((prompt, i) => {
      const row = bits.subarray(i * copies * this.words, (i * copies + 1) * this.words);
      for (const token of prompt) row[token >> 5]! |= 1 << (token & 31);
      for (let copy = 1; copy < copies; copy++) bits.set(row, (i * copies + copy) * this.words);
    });
    this.tensor.write(new Uint8Array(bits.buffer));
  }

  dispose(): void {
    this.tensor.dispose();
  }
}
