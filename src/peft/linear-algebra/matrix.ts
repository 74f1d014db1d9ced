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
  const n = b.cols;
  for (let i = 0; i < a.rows; i++) {
    const row = out.data.subarray(i * n, (i + 1) * n);
    for (let k = 0; k < a.cols; k++) {
      const factor = a.data[i * a.cols + k]!;
      if (factor === 0) continue;
      const at = k * n;
      for (let j = 0; j < n; j++) row[j]! += factor * b.data[at + j]!;
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
