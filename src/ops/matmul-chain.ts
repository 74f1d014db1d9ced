import type { Node, Value } from "../graph/graph.ts";
import type { Attrs, Op } from "../graph/op.ts";
import { traffic } from "./check.ts";
import { matmulOp } from "./matmul.ts";

/** Inputs of a member: A, B, A2?, B2?. */
const INPUTS = 4;

/**
 * C = acc + Σ_i alpha_i·A_i·op(B_i) + alpha2_i·A2_i·B2_i: what several layers give to the gradient of the input that they
 * share. As one step, their low-rank parts can be one product, [A2_1, A2_2, …]·[B2_1; B2_2; …], instead of a pass over C
 * each. Inputs: acc?, then those of each member in turn; attributes: those of each with its number behind the name.
 */
export const matmulChainOp: Op = {
  name: "matmul_chain",
  infer: (inputs, attrs) => matmulOp.infer(...asMatmul(inputs, attrs, 0)),
  cost(node) {
    let flops = 0;
    for (const { a, c, a2 } of chainMembers(node)) {
      const depth = a.shape[a.shape.length - 1]! + (a2 ? a2.shape[a2.shape.length - 1]! : 0);
      flops += 2 * depth * c.shape.reduce((product, d) => product * d, 1);
    }
    return { flops, bytes: traffic(node) };
  },
  inPlace: (node) => (node.inputs[0] ? [[0, 0]] : []),
};

/** One product, with its low-rank part, of a chain. */
export interface ChainMember {
  readonly a: Value;
  readonly b: Value;
  readonly a2: Value | null;
  readonly b2: Value | null;
  readonly c: Value;
  readonly transB: boolean;
  readonly alpha: number;
  readonly alpha2: number;
}

export function chainMembers(node: Node): ChainMember[] {
  const { attrs } = node;
  return Array.from({ length: attrs.count as number }, (_, i) => {
    const [a, b, a2 = null, b2 = null] = node.inputs.slice(1 + INPUTS * i, 1 + INPUTS * (i + 1)) as [Value, Value];
    return {
      a,
      b,
      a2: a2 as Value | null,
      b2: b2 as Value | null,
      c: node.outputs[0]!,
      transB: attrs[`transB${i}`] as boolean,
      alpha: attrs[`alpha${i}`] as number,
      alpha2: attrs[`alpha2${i}`] as number,
    };
  });
}

/** Inputs and attributes of the chain of these products, each of which is added to the one before. */
export function chainOf(nodes: readonly Node[]): { inputs: (Value | null)[]; attrs: Attrs } {
  const attrs: Record<string, number | string | boolean> = { count: nodes.length, dtype: nodes[0]!.attrs.dtype! };
  const inputs: (Value | null)[] = [nodes[0]!.inputs[2] ?? null];
  nodes.forEach(({ inputs: [a, b, , , a2, b2], attrs: own }, i) => {
    inputs.push(a!, b!, a2 ?? null, b2 ?? null);
    for (const name of ["transB", "alpha", "alpha2"]) attrs[`${name}${i}`] = own[name]!;
  });
  return { inputs, attrs };
}

function asMatmul(inputs: readonly (Value | null)[], attrs: Attrs, i: number): Parameters<typeof matmulOp.infer> {
  const [a, b, a2, b2] = inputs.slice(1 + INPUTS * i, 1 + INPUTS * (i + 1));
  const [transB, alpha, alpha2] = ["transB", "alpha", "alpha2"].map((name) => attrs[`${name}${i}`]);
  return [
    [a!, b!, inputs[0] ?? null, null, a2 ?? null, b2 ?? null],
    { transA: false, transB, alpha, alpha2, dtype: attrs.dtype } as Parameters<typeof matmulOp.infer>[1],
  ];
}
