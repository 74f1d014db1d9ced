const LANES = 8;
const CHAINS = 4;
const WIDTH = LANES * CHAINS;
const LEVELS = 4;

/**
 * Mean of f32 values with the roundings of torch.mean on one thread of an AVX2 processor. torch adds 8 lanes in 4 chains,
 * and every chain in a cascade of 4 levels (pairwise summation in coarse steps), then divides. Beyond 32767 values torch
 * splits the sum over its threads, so there is no one answer to match; the difference is a unit in the last place.
 */
export function torchMean(values: Float32Array): number {
  return Math.fround(torchSum(values) / values.length);
}

function torchSum(x: Float32Array): number {
  if (x.length < LANES) return sumFew(x);
  const rows = Math.floor(x.length / WIDTH);
  const sums = cascade(x, rows);
  const whole = Math.floor(x.length / LANES) * LANES;
  for (let i = rows * WIDTH; i < whole; i++) sums[i % LANES]! += x[i]!;
  for (let chain = 1; chain < CHAINS; chain++) {
    for (let lane = 0; lane < LANES; lane++) sums[lane]! += sums[chain * LANES + lane]!;
  }
  let total = 0;
  for (let i = whole; i < x.length; i++) total = Math.fround(total + x[i]!);
  for (let lane = 0; lane < LANES; lane++) total = Math.fround(total + sums[lane]!);
  return total;
}

/** Sums of WIDTH columns over rows: 2^power rows go into level 0, 2^power such sums into level 1, and so on. */
function cascade(x: Float32Array, rows: number): Float32Array {
  const power = Math.max(4, Math.floor(ceilLog2(rows) / LEVELS));
  const step = 1 << power;
  const levels = Array.from({ length: LEVELS }, () => new Float32Array(WIDTH));
  const lowest = levels[0]!;
  const addRow = (row: number) => {
    for (let k = 0; k < WIDTH; k++) lowest[k]! += x[row * WIDTH + k]!;
  };
  let row = 0;
  while (row + step <= rows) {
    for (let j = 0; j < step; j++) addRow(row++);
    for (let level = 1; level < LEVELS; level++) {
      drain(levels[level - 1]!, levels[level]!);
      if ((row & ((step - 1) << (level * power))) !== 0) break;
    }
  }
  while (row < rows) addRow(row++);
  for (let level = 1; level < LEVELS; level++) drain(levels[level]!, lowest);
  return lowest;
}

function drain(from: Float32Array, into: Float32Array): void {
  for (let k = 0; k < WIDTH; k++) into[k]! += from[k]!;
  from.fill(0);
}

/** Fewer values than lanes: four scalar chains. */
function sumFew(x: Float32Array): number {
  const sums = new Float32Array(CHAINS);
  const whole = Math.floor(x.length / CHAINS) * CHAINS;
  for (let i = 0; i < whole; i++) sums[i % CHAINS]! += x[i]!;
  for (let i = whole; i < x.length; i++) sums[0]! += x[i]!;
  for (let chain = 1; chain < CHAINS; chain++) sums[0]! += sums[chain]!;
  return sums[0]!;
}

function ceilLog2(n: number): number {
  return n <= 1 ? 0 : 32 - Math.clz32(n - 1);
}
