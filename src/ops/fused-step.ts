import { type Graph, Node, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { kvWriteOp } from "./cache.ts";
import { traffic } from "./check.ts";

const MEMBERS = new WeakMap<Node, readonly Node[]>();

/** The nodes that a fused step stands for, in order; they have outputs of their own, so that they can run one by one. */
export function membersOf(step: Node): readonly Node[] {
  const members = MEMBERS.get(step);
  if (!members) throw new TypeError(`${step.op.name} is not a fused step`);
  return members;
}

/** Several nodes as one step, which a backend may run as one kernel. */
function fusedOp(name: string): Op {
  return {
    name,
    infer: (): never => {
      throw new TypeError(`${name} is made by fuseStep, not applied`);
    },
    cost: (step) => ({
      flops: membersOf(step).reduce((sum, member) => sum + (member.op.cost?.(member).flops ?? 0), 0),
      bytes: traffic(step),
    }),
    // Members that only update a tensor do so; other memory is not used again within the step.
    inPlace: (step) =>
      membersOf(step)
        .filter(({ op }) => op.name === kvWriteOp.name)
        .flatMap((member) =>
          kvWriteOp.inPlace!(member).map(([output, input]): [number, number] => [
            step.outputs.indexOf(member.outputs[output]!),
            step.inputs.indexOf(member.inputs[input]!),
          ]),
        ),
  };
}

const OPS = new Map<string, Op>();

/** A step named `name` in the place of `members`; not yet in the graph. */
export function fuseStep(graph: Graph, name: string, members: readonly Node[]): Node {
  let op = OPS.get(name);
  if (!op) {
    op = fusedOp(name);
    OPS.set(name, op);
  }
  const outputs = members.flatMap((member) => member.outputs);
  const inputs = [...new Set(members.flatMap((member) => member.inputs))].filter(
    (value): value is Value => value !== null && !outputs.includes(value),
  );
  const { scope, phase } = members[0]!;
  const step = new Node(graph, op, inputs, {}, { scope, phase, outputs });
  MEMBERS.set(step, members);
  return step;
}
