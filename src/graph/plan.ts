import type { Graph, Node } from "./graph.ts";
import { analyseLiveness, liveBytes, onlyReaders, type WorkspaceOf } from "./liveness.ts";
import { optimize } from "./optimize.ts";
import { overlapCopies } from "./overlap.ts";
import { packBlocks } from "./pack.ts";
import { Program } from "./program.ts";
import {
  applyDecisions,
  type Decisions,
  type Rates,
  recomputeSeconds,
  type Saved,
  savedActivations,
  seconds,
} from "./remat.ts";
import { MemoryPlanError } from "./types.ts";

/**
 * Which activations to keep for the backward phase.
 * - `keep`: all (fastest, most memory);
 * - `recompute`: none but the boundaries of the repeated blocks (Hugging Face's gradient checkpointing);
 * - `budget`: as many as fit into `bytes` of arena, the cheapest for their size to recompute or offload given up first;
 *   what recomputing hardly costs time (see FREE_SHARE) is not kept even when it would fit;
 * - `minimum`: whatever needs the least memory.
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
  /** Most bytes of host memory that offloading may take. */
  readonly hostBytes?: number;
  readonly name?: string;
}

/** Fuse, decide what to keep, and place everything in one arena: the last step before a backend compiles. */
export function plan(graph: Graph, options: PlanOptions): Program {
  optimize(graph);
  const nodes = graph.nodes.slice();
  const saved = savedActivations(nodes);
  const readers = onlyReaders(nodes);
  const workspaces = new Map<Node, number>();
  const workspaceOf = (node: Node): number => {
    let bytes = workspaces.get(node.origin);
    if (bytes === undefined) {
      bytes = options.workspaceOf(node);
      workspaces.set(node.origin, bytes);
    }
    return bytes;
  };
  const policy = options.policy ?? { kind: "keep" };
  const ranked = rank(graph, saved, options);
  const keepFirst = (count: number): Decisions => {
    const given = withinHost(ranked.slice(count), options.hostBytes ?? Number.POSITIVE_INFINITY);
    const nodes = (copied: boolean): Set<Node> => new Set(given.filter((g) => g.copied === copied).map((g) => g.node));
    return { recompute: nodes(false), offload: nodes(true) };
  };
  const program = (count: number): Program => {
    const decisions = keepFirst(count);
    const steps = overlapCopies(graph, applyDecisions(graph, nodes, saved, decisions), options.rates);
    const liveness = analyseLiveness(graph, steps, workspaceOf, readers);
    const { peak } = liveBytes(liveness, steps.length, "arena");
    const arena = packBlocks(liveness.blocks, "arena", 1.01 * peak, true);
    const host = packBlocks(liveness.blocks, "host");
    return new Program({ graph, steps, liveness, arena, host, decisions, saved, name: options.name ?? "program" });
  };
  if (policy.kind === "keep") return program(ranked.length);
  if (policy.kind === "recompute") return program(0);

  const worthKeeping =
    policy.kind === "budget" ? ranked.length - nearlyFree(ranked, nodes, options.rates) : ranked.length;
  const everything = program(worthKeeping);
  const nothing = program(0);
  if (policy.kind === "minimum") return nothing.arenaBytes < everything.arenaBytes ? nothing : everything;
  if (everything.arenaBytes <= policy.bytes) return everything;
  if (nothing.arenaBytes > policy.bytes) {
    throw new MemoryPlanError(
      nothing.arenaBytes,
      policy.bytes,
      `this step needs at least ${mebibytes(nothing.arenaBytes)} MiB of activation memory, with everything recomputed ` +
        `that can be; the budget is ${mebibytes(policy.bytes)} MiB`,
    );
  }
  // The peak grows with what is kept: bisect between the count that fits and the one that does not.
  let [fits, fails] = [0, worthKeeping];
  let best = nothing;
  while (fails - fits > 1) {
    const middle = (fits + fails) >> 1;
    const tried = program(middle);
    if (tried.arenaBytes <= policy.bytes) [fits, best] = [middle, tried];
    else fails = middle;
  }
  return best;
}

const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);

interface Ranked {
  readonly node: Node;
  /** Place among the saved activations, in forward order. */
  readonly order: number;
  readonly bytes: number;
  /** A boundary of the repeated blocks: never recomputed. */
  readonly boundary: boolean;
  /** Estimated seconds that giving it up adds to the step. */
  readonly seconds: number;
  /** Given up by copying to host memory rather than by recomputing. */
  readonly copied: boolean;
  /** Estimated seconds that recomputing it instead of copying would add. */
  readonly copySaves: number;
}

/**
 * What is given up, with no more in host memory than it has: where copying saves the least time for its bytes, it is
 * recomputed; of boundaries, which cannot be, the last stay on the device, where they wait the shortest.
 */
function withinHost(given: readonly Ranked[], hostBytes: number): Ranked[] {
  const copied = given.filter((one) => one.copied);
  let excess = copied.reduce((sum, { bytes }) => sum + bytes, 0) - hostBytes;
  if (excess <= 0) return given.slice();
  const [recomputed, kept] = [new Set<Ranked>(), new Set<Ranked>()];
  const drop = (candidates: readonly Ranked[], into: Set<Ranked>): void => {
    for (const one of candidates) {
      if (excess <= 0) return;
      into.add(one);
      excess -= one.bytes;
    }
  };
  const inner = copied.filter(({ boundary }) => !boundary);
  drop(
    inner.sort((a, b) => a.copySaves / a.bytes - b.copySaves / b.bytes),
    recomputed,
  );
  const outer = copied.filter(({ boundary }) => boundary);
  drop(
    outer.sort((a, b) => b.order - a.order),
    kept,
  );
  return given.filter((one) => !kept.has(one)).map((one) => (recomputed.has(one) ? { ...one, copied: false } : one));
}

/**
 * What may be given up, the most expensive for its size first: keeping a prefix of it is the best use of a budget. The
 * boundaries of the repeated blocks are not in it, unless they can be offloaded: without them recomputing one block would
 * mean recomputing all before it.
 */
function rank(graph: Graph, saved: readonly Saved[], { rates, offload }: PlanOptions): Ranked[] {
  const hostRate = offload ? rates.hostBytesPerSecond : null;
  const savedNodes = new Set(saved.map((s) => s.node));
  const boundaries = new Set([...graph.boundaries].map((value) => value.node));
  return saved
    .map(({ node, bytes }, order) => {
      const again = recomputeSeconds(node, savedNodes, rates);
      const copies = hostRate ? (2 * bytes) / hostRate : Number.POSITIVE_INFINITY;
      const boundary = boundaries.has(node);
      const added = Math.min(again, copies);
      const copied = boundary || copies < again;
      const entry: Ranked = { node, order, bytes, boundary, copied, seconds: added, copySaves: again - copies };
      return { ...entry, price: added / bytes };
    })
    .filter(({ boundary }) => !boundary || hostRate !== null)
    .sort((a, b) => b.price - a.price);
}

/** Share of the step's time that recomputing without need may cost: for it the cheapest third of the activations goes. */
const FREE_SHARE = 0.015;

/** How many of the last (cheapest) entries can be recomputed within FREE_SHARE of the step's estimated time. */
function nearlyFree(ranked: readonly Ranked[], nodes: readonly Node[], rates: Rates): number {
  const step = nodes.reduce((sum, node) => sum + (node.op.cost ? seconds(node.op.cost(node), rates) : 0), 0);
  let left = FREE_SHARE * step;
  let count = 0;
  for (let i = ranked.length - 1; i >= 0 && !ranked[i]!.copied; i--, count++) {
    left -= ranked[i]!.seconds;
    if (left < 0) break;
  }
  return count;
}
