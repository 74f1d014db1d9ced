import type { Node, Value } from "../../graph/graph.ts";
import type { FloatDType } from "../../graph/types.ts";
import { type ChainMember, chainMembers } from "../../ops/matmul-chain.ts";
import { groupMembers } from "../../ops/matmul-group.ts";
import { cType, float, int, long, pointer } from "./kernels.ts";
import { fewRows, lowerFewRows } from "./lower-few-rows.ts";
import { inFp8, lowerFp8, multiplyInFp8, productInFp8, quantizeRows } from "./lower-fp8.ts";
import {
  colsOf,
  decodeQuantized,
  denseAt,
  floatOf,
  type Lower,
  type Lowering,
  rowsOf,
  size,
  spread,
} from "./lowering.ts";

/** Rows from which it pays to make copies of narrow operands, or of A, so that products can be joined. */
const MANY_ROWS = 1024;
const bytesOf = (dtype: FloatDType): number => (dtype === "f32" ? 4 : 2);
const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step;
const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);

/** out[rows, pitch] = [x, low_0, low_1, low_2, 0]; without x the low-rank parts alone. */
export function joinColumns(to: Lowering, x: Value | null, lows: readonly Value[], pitch: number, out: number): void {
  const rows = rowsOf(lows[0]!);
  const parts = [0, 1, 2].map((i) => pointer(to.address(lows[i])));
  const widths = [0, 1, 2].map((i) => int(lows[i] ? colsOf(lows[i]) : 0));
  const head = [long(rows), int(x ? colsOf(x) : 0), int(pitch), pointer(to.address(x))];
  const defines = { T: cType(floatOf(lows[0]!)) };
  spread(to, "lora", defines, "join_columns", (rows * pitch) / 8, [...head, ...parts, ...widths, pointer(out)]);
}

/** Products that share an operand: one launch where they are of a kind that has one, else one after another. */
export function lowerGroup(node: Node, to: Lowering, lowerOne: Lower): void {
  const members = groupMembers(node);
  const [a, b] = members[0]!.inputs as [Value, Value];
  const many = rowsOf(a) >= MANY_ROWS;
  if (fewRows(members, to)) lowerFewRows(members, to);
  else if (members[0]!.attrs.transA && members.every(({ inputs }) => inputs[1] === b && inputs[0]!.dtype === b.dtype))
    lowerNarrowGradients(members, to);
  else if (members.every((member) => productInFp8(to, member))) lowerFp8(members, to);
  else if (many && members.every(isNarrow)) lowerNarrow(members, to);
  else if (many && foldedTogether(members)) lowerFolded(members, to);
  else for (const member of members) to.scoped(() => lowerOne(member, to));
}

function isNarrow({ inputs, attrs }: Node): boolean {
  const [a, b, ...others] = inputs as [Value, Value, ...(Value | null)[]];
  const plain = attrs.alpha === 1 && !attrs.transA && attrs.transB === true && others.every((value) => !value);
  return plain && attrs.dtype === a.dtype && b.dtype === "f32" && rowsOf(b) * 16 <= colsOf(b);
}

/** low_i = x·A_iᵀ as one product with all A_i below each other. */
function lowerNarrow(members: readonly Node[], to: Lowering): void {
  const x = members[0]!.inputs[0]!;
  const input = floatOf(x);
  const [m, k] = [rowsOf(x), colsOf(x)];
  const ranks = members.map(({ inputs }) => rowsOf(inputs[1]!));
  const width = sum(ranks);
  const stacked = to.scratch(bytesOf(input) * width * k);
  const together = to.scratch(bytesOf(input) * m * width);
  let at = stacked;
  for (const { inputs } of members) {
    denseAt(to, inputs[1]!, input, at);
    at += bytesOf(input) * size(inputs[1]!);
  }
  const shape = { m, n: width, k, transA: false, transB: true, input, output: input, lda: k, ldb: k, ldc: width };
  to.product(shape, { a: to.address(x), b: stacked, c: together, d: together, alpha: 1, beta: 0 });
  const lows = [0, 1, 2].map((i) => pointer(to.address(members[i]?.outputs[0])));
  const widths = [0, 1, 2].map((i) => int(ranks[i] ?? 0));
  const args = [long(m), pointer(together), ...lows, ...widths];
  spread(to, "lora", { T: cType(input) }, "split_columns", m * width, args);
}

/** dA_i = acc_i + dlow_iᵀ·x as one product with all dlow_i beside each other. */
function lowerNarrowGradients(members: readonly Node[], to: Lowering): void {
  const x = members[0]!.inputs[1]!;
  const input = floatOf(x);
  const [rows, n] = [rowsOf(x), colsOf(x)];
  const lows = members.map(({ inputs }) => inputs[0]!);
  const pitch = roundUp(sum(lows.map(colsOf)), 8);
  const joined = to.scratch(bytesOf(input) * rows * pitch);
  const together = to.scratch(4 * pitch * n);
  joinColumns(to, null, lows, pitch, joined);
  to.product(
    { m: pitch, n, k: rows, transA: true, transB: false, input, output: "f32", lda: pitch, ldb: n, ldc: n },
    { a: joined, b: to.address(x), c: together, d: together, alpha: 1, beta: 0 },
  );
  let at = together;
  for (const { inputs, outputs, attrs } of members) {
    const out = outputs[0]!;
    const args = [long(size(out)), float(attrs.alpha as number), pointer(at)];
    const ends = [to.address(inputs[2]), to.address(out)].map(pointer);
    spread(to, "elementwise", { T: "float" }, "add_scaled", size(out), [...args, ...ends]);
    at += out.bytes;
  }
}

/** Whether [x, low_0, low_1, …]·[W_i, …, s·B_i, …]ᵀ is a way to compute all of them. */
function foldedTogether(members: readonly Node[]): boolean {
  return members.every(({ inputs, attrs }) => {
    const [a, b, acc, bias, a2, b2] = inputs as [Value, Value, ...(Value | null)[]];
    if (acc || bias || attrs.alpha !== 1 || attrs.transA || attrs.transB !== true || a.dtype === "f32") return false;
    if (!a2 || (b.dtype !== "nf4" && b.dtype !== "int8") || b2?.dtype !== "f32") return false;
    return colsOf(a) % 8 === 0 && rowsOf(b) % 8 === 0 && colsOf(a2) * 16 <= colsOf(a);
  });
}

function lowerFolded(members: readonly Node[], to: Lowering): void {
  const x = members[0]!.inputs[0]!;
  const input = floatOf(x);
  const [m, k] = [rowsOf(x), colsOf(x)];
  const lows = members.map(({ inputs }) => inputs[4]!);
  const depth = k + roundUp(sum(lows.map(colsOf)), 64);
  const left = to.scratch(2 * m * depth);
  const right = to.scratch(2 * depth * Math.max(...members.map(({ inputs }) => rowsOf(inputs[1]!))));
  joinColumns(to, x, lows, depth, left);
  let before = 0;
  for (const { inputs, outputs, attrs } of members) {
    const [weight, b, c] = [inputs[1]!, inputs[5]!, outputs[0]!];
    const [n, r] = [rowsOf(weight), colsOf(b)];
    decodeQuantized(to, to.tensor(weight), input, right, depth);
    spread(to, "lora", { T: cType(input) }, "append_columns", n * (depth - k), [
      long(n), int(k), int(before), int(r), int(depth), float(attrs.alpha2 as number), pointer(to.address(b)), pointer(right),
    ]); // biome-ignore format: in the groups of the kernel's signature
    const target = to.address(c);
    to.product(
      { m, n, k: depth, transA: false, transB: true, input, output: floatOf(c), lda: depth, ldb: depth, ldc: n },
      { a: left, b: right, c: target, d: target, alpha: 1, beta: 0 },
    );
    before += r;
  }
}

/** A sum of products: the low-rank parts of up to three at once as one, then each wide one onto it. */
export function lowerChain(node: Node, to: Lowering): void {
  const members = chainMembers(node);
  const c = node.outputs[0]!;
  const [m, n] = [rowsOf(c), colsOf(c)];
  const input = floatOf(c);
  const target = to.address(c);
  let source = to.address(node.inputs[0]);
  const multiply = (left: { address: number; k: number }, right: number, transB: boolean, alpha: number): void => {
    const { address: a, k } = left;
    const shape = { m, n, k, transA: false, transB, input, output: input, lda: k, ldb: transB ? k : n, ldc: n };
    const ends = { c: source || target, d: target, alpha, beta: source ? 1 : 0 };
    to.product(shape, { a, b: right, ...ends });
    source = target;
  };
  const low = members.filter(hasLow);
  for (let i = 0; i < low.length; i += 3) {
    const some = low.slice(i, i + 3);
    to.scoped(() => {
      const parts = some.map(({ a2 }) => a2);
      const pitch = roundUp(sum(parts.map(colsOf)), 8);
      const left = to.scratch(bytesOf(input) * m * pitch);
      const right = to.scratch(bytesOf(input) * pitch * n);
      joinColumns(to, null, parts, pitch, left);
      let row = 0;
      some.forEach(({ b2, alpha2 }, j) => {
        const r = rowsOf(b2);
        // The last fills up with zeros.
        const rows = j === some.length - 1 ? pitch - row : r;
        const args = [long(n), int(r), int(rows), float(alpha2), pointer(to.address(b2))];
        const out = pointer(right + bytesOf(input) * row * n);
        spread(to, "lora", { T: cType(input) }, "append_rows", rows * n, [...args, out]);
        row += r;
      });
      multiply({ address: left, k: pitch }, right, false, 1);
    });
  }
  for (const { a, b, transB, alpha } of members) {
    to.scoped(() => {
      if (alpha === 1 && inFp8(to, a, b)) {
        const rows = quantizeRows(to, to.address(a), m, colsOf(a));
        multiplyInFp8(to, { ...rows, m }, b, transB, { c: source || target, d: target, beta: source ? 1 : 0 });
        source = target;
        return;
      }
      let right = to.address(b);
      if (b.dtype !== input) {
        right = to.scratch(bytesOf(input) * size(b));
        denseAt(to, b, input, right);
      }
      multiply({ address: to.address(a), k: colsOf(a) }, right, transB, alpha);
    });
  }
}

type WithLow = ChainMember & { readonly a2: Value; readonly b2: Value };
function hasLow(member: ChainMember): member is WithLow {
  return member.a2 !== null;
}
