import type { Graph, Node } from "./graph.ts";
import { analyseLiveness, type Liveness, liveBytes, type WorkspaceOf } from "./liveness.ts";
import { optimize } from "./optimize.ts";
import { packBlocks } from "./pack.ts";
import { Program } from "./program.ts";
import { applyDecisions, type Decisions, type Rates, recomputeSeconds, type Saved, savedActivations } from "./remat.ts";
import { MemoryPlanError } from "./types.ts";

/**
 * Which activations to keep for the backward phase.
 * - `keep`: all (fastest, most memory);
 * - `recompute`: none but the boundaries of the repeated blocks (Hugging Face's gradient checkpointing);
 * - `budget`: as many as fit into `bytes` of arena, cheapest to recompute or offload given up first;
 * - `minimum`: give up what lowers the peak until nothing does.
 */
export type CheckpointPolicy =
  | { kind: "keep" }
  | { kind: "recompute" }
  | { kind: "budget"; bytes: number }
  | { kind: "minimum" };

export interface PlanOptions {
  readonly workspaceOf: WorkspaceOf;
  readonly rates: Rates;
  readonly policy?: CheckpointPolicy;
  /** Let the planner move activations to host memory where that is cheaper than recomputing (needs rates.hostBytesPerSecond). */
  readonly offload?: boolean;
  readonly name?: string;
}

interface Trial {
  readonly steps: Node[];
  readonly liveness: Liveness;
  readonly peak: number;
  readonly at: number;
}

/** Fuse, decide what to keep, and place everything in one arena: the last step before a backend compiles. */
export function plan(graph: Graph, options: PlanOptions): Program {
  optimize(graph);
  const nodes = graph.nodes.slice();
  const saved = savedActivations(nodes);
  const attempt = (decisions: Decisions): Trial => {
    const steps = applyDecisions(graph, nodes, saved, decisions);
    const liveness = analyseLiveness(graph, steps, options.workspaceOf);
    return { steps, liveness, ...liveBytes(liveness, steps.length, "arena") };
  };
  const finish = (trial: Trial, decisions: Decisions): Program => {
    const arena = packBlocks(trial.liveness.blocks, "arena");
    const host = packBlocks(trial.liveness.blocks, "host");
    return new Program({ graph, ...trial, arena, host, decisions, saved, name: options.name ?? "program" });
  };

  const policy = options.policy ?? { kind: "keep" };
  const none: Decisions = { recompute: new Set(), offload: new Set() };
  if (policy.kind === "keep") return finish(attempt(none), none);
  if (policy.kind === "recompute") {
    const boundaryNodes = new Set([...graph.boundaries].map((value) => value.node));
    const decisions = {
      ...none,
      recompute: new Set(saved.map((s) => s.node).filter((node) => !boundaryNodes.has(node))),
    };
    return finish(attempt(decisions), decisions);
  }

  const budget = policy.kind === "budget" ? policy.bytes : 0;
  // Packing can need a little more than the live bytes; aim lower by what it did, a few times at most.
  let target = budget;
  let smallest = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 5; round++) {
    const found = search(saved, attempt, target, options);
    const program = finish(found.trial, found.decisions);
    if (policy.kind === "minimum" || program.arenaBytes <= budget) return program;
    smallest = Math.min(smallest, program.arenaBytes);
    if (found.trial.peak > target) break;
    target -= program.arenaBytes - budget;
  }
  throw new MemoryPlanError(
    smallest,
    budget,
    `this step needs at least ${mebibytes(smallest)} MiB of activation memory, with everything recomputed that can be; the budget is ${mebibytes(budget)} MiB`,
  );
}

const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);

/** Give up saved activations until the peak is at most `target` or nothing helps; the best trial seen. */
function search(
  saved: readonly Saved[],
  attempt: (decisions: Decisions) => Trial,
  target: number,
  options: PlanOptions,
): { trial: Trial; decisions: Decisions } {
  const { rates } = options;
  const savedNodes = new Set(saved.map((s) => s.node));
  let recompute = new Set<Node>();
  let offload = new Set<Node>();
  let trial = attempt({ recompute, offload });
  let best = { trial, decisions: { recompute, offload } };
  while (trial.peak > target) {
    const firstRead = firstBackwardReads(trial.steps);
    const hostRate = options.offload ? rates.hostBytesPerSecond : null;
    const ranked = saved
      .filter(({ node }) => !recompute.has(node) && !offload.has(node))
      .filter(({ node }) => heldAcross(node, trial, firstRead))
      .map(({ node, bytes }) => {
        const again = recomputeSeconds(node, savedNodes, recompute, rates);
        const copies = hostRate ? (2 * bytes) / hostRate : Number.POSITIVE_INFINITY;
        return { node, bytes, copy: copies < again, price: Math.min(again, copies) / bytes };
      })
      .sort((a, b) => a.price - b.price);
    if (ranked.length === 0) break;
    // Half of what is missing at a time: prices change as their neighbours are given up.
    let missing = (trial.peak - target) / 2;
    recompute = new Set(recompute);
    offload = new Set(offload);
    for (const candidate of ranked) {
      (candidate.copy ? offload : recompute).add(candidate.node);
      missing -= candidate.bytes;
      if (missing <= 0) break;
    }
    trial = attempt({ recompute, offload });
    if (trial.peak < best.trial.peak) best = { trial, decisions: { recompute, offload } };
  }
  return trial.peak <= target ? { trial, decisions: { recompute, offload } } : best;
}

/** Whether an output of `node` is held over the peak only because a later backward node reads it. */
function heldAcross(node: Node, trial: Trial, firstRead: ReadonlyMap<Node, number>): boolean {
  const read = firstRead.get(node);
  if (read === undefined || read <= trial.at) return false;
  return node.outputs.some((value) => {
    const block = trial.liveness.blockOf.get(value);
    return block !== undefined && block.start <= trial.at && block.end >= trial.at;
  });
}

function firstBackwardReads(steps: readonly Node[]): Map<Node, number> {
  const first = new Map<Node, number>();
  steps.forEach((node, at) => {
    if (node.phase !== "backward") return;
    for (const value of node.inputs) {
      let producer = value?.node;
      while (producer?.op.view) producer = producer.inputs[0]!.node;
      if (producer?.phase === "forward" && !first.has(producer)) first.set(producer, at);
    }
  });
  return first;
}
