/** A matrix in float64, row after row. */
export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float64Array;
}

export const zeros = (rows: number, cols: number): Matrix => ({ rows, cols, data: new Float64Array(rows * cols) });

export function fromFloats(rows: number, cols: number, values: ArrayLike<number>): Matrix {
  return { rows, cols, data: Float64Array.from(values) };
}

export function transpose({ rows, cols, data }: Matrix): Matrix {
  const out = zeros(cols, rows);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out.data[j * rows + i] = data[i * cols + j]!;
  return out;
}

/** a·b */
export function multiply(a: Matrix, b: Matrix): Matrix {
  const out = zeros(a.rows, b.cols);
  const [n, depth] = [b.cols, a.cols];
  const whole = depth - (depth % 4);
  const B = b.data;
  for (let i = 0; i < a.rows; i++) {
    const row = out.data.subarray(i * n, (i + 1) * n);
    // Four rows of b at a time: the sums are read and written a quarter as often.
    for (let k = 0; k < whole; k += 4) {
      const from = i * depth + k;
      const [p, q, r, s] = [a.data[from]!, a.data[from + 1]!, a.data[from + 2]!, a.data[from + 3]!];
      const at = k * n;
      for (let j = 0; j < n; j++) {
        row[j]! += p * B[at + j]! + q * B[at + n + j]! + r * B[at + 2 * n + j]! + s * B[at + 3 * n + j]!;
      }
    }
    for (let k = whole; k < depth; k++) {
      const factor = a.data[i * depth + k]!;
      for (let j = 0; j < n; j++) row[j]! += factor * B[k * n + j]!;
    }
  }
  return out;
}

/** Some columns of a, those from `from` to before `to`. */
export function columns({ rows, cols, data }: Matrix, from: number, to: number): Matrix {
  const out = zeros(rows, to - from);
  for (let i = 0; i < rows; i++) out.data.set(data.subarray(i * cols + from, i * cols + to), i * (to - from));
  return out;
}

/** Matrices of as many rows beside each other. */
export function beside(...parts: readonly Matrix[]): Matrix {
  const rows = parts[0]!.rows;
  const out = zeros(
    rows,
    parts.reduce((sum, { cols }) => sum + cols, 0),
  );
  let at = 0;
  for (const { cols, data } of parts) {
    for (let i = 0; i < rows; i++) out.data.set(data.subarray(i * cols, (i + 1) * cols), i * out.cols + at);
    at += cols;
  }
  return out;
}
