import type { Graph, Node } from "./graph.ts";
import type { Op } from "./op.ts";
import { type Rates, seconds } from "./remat.ts";

/**
 * From here on the copy that fills the first input is complete, and its source (the second) free to be written over. Where
 * copies run beside arithmetic, `offload` and `fetch` only start them.
 */
export const copyWaitOp: Op<Record<string, never>> = {
  name: "copy_wait",
  infer: () => [],
};

/** A copy back is given this many times its own duration. */
const HEADROOM = 1.5;
/** Seconds that a copy takes whatever its size. */
const LATENCY = 1e-5;
/** Copies under way hold no more than this many times the largest. */
const MOST_UNDER_WAY = 2;

interface Copy {
  readonly node: Node;
  /** Where it stands in the schedule: after what it copies, or before what reads it. */
  readonly at: number;
  readonly bytes: number;
  readonly duration: number;
}

/**
 * The schedule with copies beside arithmetic: what is offloaded stays readable for as long as copying it takes, and what is
 * fetched is asked for early enough to be there in time, but no earlier, since it holds memory from then on. Copies run one
 * after another. Durations are estimates: a wrong one costs a pause or some memory, never a wrong result.
 */
export function overlapCopies(graph: Graph, steps: readonly Node[], rates: Rates): Node[] {
  const rate = rates.hostBytesPerSecond;
  const isCopy = (node: Node): boolean => node.op.name === "offload" || node.op.name === "fetch";
  if (!rates.copiesOverlap || rate === null || !steps.some(isCopy)) return steps.slice();
  const time = new Float64Array(steps.length + 1);
  steps.forEach((node, i) => {
    const cost = isCopy(node) || node.op.view ? undefined : node.op.cost?.(node);
    time[i + 1] = time[i]! + (cost ? seconds(cost, rates) : 0);
  });
  const copies = (name: string): Copy[] =>
    steps.flatMap((node, at) => {
      const { bytes } = node.outputs[0] ?? { bytes: 0 };
      return node.op.name === name ? [{ node, at, bytes, duration: bytes / rate + LATENCY }] : [];
    });
  const [offloads, fetches] = [copies("offload"), copies("fetch")];

  // Before step i, in this order: offloads end, fetches start, fetches end.
  const places = (): Node[][] => Array.from({ length: steps.length + 1 }, () => []);
  const [offloaded, starting, arrived] = [places(), places(), places()];
  const wait = ({ node }: Copy): Node =>
    graph.inPhase(node.phase, () => {
      graph.apply(copyWaitOp, [node.outputs[0]!, node.inputs[0]!], {}, node.scope);
      return graph.nodes.pop()!;
    });
  const fetched = new Map(fetches.map(({ node, at }) => [node.inputs[0]!, at]));
  const written = new Map(offloads.map(({ node }) => [node.outputs[0]!, 0]));

  let free = 0;
  offloads.forEach((copy, i) => {
    free = Math.max(free, time[copy.at]!) + copy.duration;
    const latest = Math.min(
      fetched.get(copy.node.outputs[0]!) ?? steps.length,
      crowdedAt(offloads, i, 1, steps.length),
    );
    let end = copy.at + 1;
    while (end < latest && time[end]! < free) end++;
    offloaded[end]!.push(wait(copy));
    written.set(copy.node.outputs[0]!, end);
  });
  free = Number.POSITIVE_INFINITY;
  for (let i = fetches.length - 1; i >= 0; i--) {
    const copy = fetches[i]!;
    free = Math.min(free, time[copy.at]!) - HEADROOM * copy.duration;
    const earliest = Math.max(written.get(copy.node.inputs[0]!) ?? 0, crowdedAt(fetches, i, -1, -1) + 1);
    let start = copy.at;
    while (start > earliest && time[start]! > free) start--;
    starting[start]!.unshift(copy.node);
    arrived[copy.at]!.push(wait(copy));
  }
  const schedule: Node[] = [];
  for (let i = 0; i <= steps.length; i++) {
    schedule.push(...offloaded[i]!, ...starting[i]!, ...arrived[i]!);
    if (i < steps.length && steps[i]!.op.name !== "fetch") schedule.push(steps[i]!);
  }
  return schedule;
}

/** The step of the nearest copy, from the i-th in a direction, at which too many bytes would be under way. */
function crowdedAt(copies: readonly Copy[], i: number, direction: 1 | -1, otherwise: number): number {
  const most = MOST_UNDER_WAY * copies.reduce((largest, { bytes }) => Math.max(largest, bytes), 0);
  let bytes = 0;
  for (let j = i; j >= 0 && j < copies.length; j += direction) {
    bytes += copies[j]!.bytes;
    if (bytes > most) return copies[j]!.at;
  }
  return otherwise;
}
