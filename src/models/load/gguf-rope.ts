import { inverseFrequencies } from "../rope-table.ts";

/** f32 factors, and frequencies rounded to f32 before them. */
const TOLERANCE = 1e-5;
/** Llama 3.1's own values, for what the factors leave open. */
const LOW = 1;
const HIGH = 4;

/**
 * config.json's rope_scaling for a GGUF's rope_freqs.weight, the factors that divide the frequencies. llama.cpp's
 * converter computes them from Llama 3's parameters, which are found again: the factor is the largest; between, with w
 * the wavelength, 1/f = (1 − s)/F + s with s = (P/w − low)/(high − low), a line in 1/w that any two factors determine up
 * to the scale of P, low and high, taken as low = 1. Factors that are not of this kind become LongRoPE's, alike for short
 * and long texts.
 */
export function ropeScalingFromFactors(factors: readonly number[], theta: number): Record<string, unknown> {
  const headDim = 2 * factors.length;
  const plain = inverseFrequencies({ theta, scaling: { type: "default" } }, headDim);
  const factor = Math.max(...factors);
  for (const { positions, high } of candidates(factors, plain, factor)) {
    const scaling = {
      type: "llama3",
      factor,
      lowFreqFactor: LOW,
      highFreqFactor: high,
      originalMaxPositions: positions,
    } as const;
    const frequencies = inverseFrequencies({ theta, scaling }, headDim);
    const fits = factors.every((f, i) => Math.abs((plain[i]! / frequencies[i]! - f) / f) <= TOLERANCE);
    if (fits) {
      return {
        rope_type: "llama3",
        factor,
        low_freq_factor: LOW,
        high_freq_factor: high,
        original_max_position_embeddings: positions,
      };
    }
  }
  return { rope_type: "longrope", short_factor: factors, long_factor: factors, attention_factor: 1 };
}

/** Original lengths and high-frequency factors that could have given these factors, likeliest first. */
function* candidates(
  factors: readonly number[],
  plain: Float32Array,
  factor: number,
): Generator<{ positions: number; high: number }> {
  const blended: { u: number; s: number }[] = [];
  factors.forEach((f, i) => {
    if (f > 1 && f < factor) {
      blended.push({ u: plain[i]! / (2 * Math.PI), s: (1 / f - 1 / factor) / (1 - 1 / factor) });
    }
  });
  const first = blended[0];
  const last = blended.at(-1);
  if (!first || !last) return;
  if (first === last) {
    yield { positions: Math.round((first.s * (HIGH - LOW) + LOW) / first.u), high: HIGH };
    return;
  }
  // s = slope·u − shift, with slope = P/(high − low) and shift = low/(high − low).
  const slope = (first.s - last.s) / (first.u - last.u);
  const shift = slope * first.u - first.s;
  const high = LOW + LOW / shift;
  const positions = Math.round((slope / shift) * LOW);
  if (!(shift > 0) || !(positions > 0)) return;
  yield { positions, high: Math.round(high) };
  yield { positions, high };
}
