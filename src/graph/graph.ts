import type { Attrs, Op } from "./op.ts";
import { type DType, denseBytes, GraphError, type Shape, type Tensor, type TensorSpec } from "./types.ts";

/** When a node runs within a step: planning may repeat forward nodes in the backward phase, and nothing else. */
export type Phase = "forward" | "backward" | "update";

export type ValueKind =
  /** Computed by a node; lives in the arena for as long as it is needed. */
  | "computed"
  /** Filled by the host before each run. */
  | "input"
  /** A persistent tensor. */
  | "tensor";

/** A symbolic array with static type and shape. */
export class Value implements TensorSpec {
  readonly graph: Graph;
  readonly id: number;
  readonly kind: ValueKind;
  readonly dtype: DType;
  readonly shape: Shape;
  /** The producing node and which of its outputs this is; null for inputs and tensors. */
  readonly node: Node | null;
  readonly index: number;
  readonly tensor: Tensor | null;
  /** For a tensor's value: programs may update it in place (gradient buffers, optimizer states, caches). */
  mutable = false;
  name: string;

  constructor(
    graph: Graph,
    kind: ValueKind,
    spec: TensorSpec,
    from: { node?: Node; index?: number; tensor?: Tensor; name: string },
  ) {
    this.graph = graph;
    this.id = graph.nextValueId();
    this.kind = kind;
    this.dtype = spec.dtype;
    this.shape = spec.shape;
    this.node = from.node ?? null;
    this.index = from.index ?? 0;
    this.tensor = from.tensor ?? null;
    this.name = from.name;
  }

  get bytes(): number {
    return this.tensor?.bytes ?? denseBytes(this.dtype, this.shape);
  }

  toString(): string {
    return `%${this.name}:${this.dtype}[${this.shape.join(",")}]`;
  }
}

/** One operation applied to values. */
export class Node {
  readonly op: Op;
  /** Rewritten by fusion only. */
  inputs: readonly (Value | null)[];
  attrs: Attrs;
  readonly outputs: readonly Value[];
  readonly scope: string;
  readonly phase: Phase;
  /** The forward node this one repeats, when the planner chose to recompute it. */
  readonly recomputeOf: Node | null;
  /** The traced node that this one is, or is a version of. */
  readonly origin: Node;

  constructor(
    graph: Graph,
    op: Op,
    inputs: readonly (Value | null)[],
    attrs: Attrs,
    where: { scope: string; phase: Phase; recomputeOf?: Node; origin?: Node; outputs?: readonly Value[] },
  ) {
    this.op = op;
    this.inputs = inputs;
    this.attrs = attrs;
    this.scope = where.scope;
    this.phase = where.phase;
    this.recomputeOf = where.recomputeOf ?? null;
    this.origin = where.recomputeOf ?? where.origin ?? this;
    const suffix = this.recomputeOf ? "'" : "";
    this.outputs =
      where.outputs ??
      op.infer(inputs, attrs).map((spec, index) => {
        const name = (this.recomputeOf ? this.recomputeOf.outputs[index]!.name : graph.freshName(op.name)) + suffix;
        return new Value(graph, "computed", spec, { node: this, index, name });
      });
  }

  /** The same computation, into the same outputs, from other inputs. */
  withInputs(graph: Graph, inputs: readonly (Value | null)[]): Node {
    const { scope, phase, outputs } = this;
    return new Node(graph, this.op, inputs, this.attrs, { scope, phase, outputs, origin: this.origin });
  }

  /** A copy of this forward node with outputs of its own, for the backward phase. */
  recomputed(graph: Graph, inputs: readonly (Value | null)[]): Node {
    return new Node(graph, this.op, inputs, this.attrs, { scope: this.scope, phase: "backward", recomputeOf: this });
  }
}

/**
 * A flat, ordered record of operations: what tracing a model, a loss and its gradients leaves behind.
 * Values belong to one graph; nodes run in the order they were added.
 */
export class Graph {
  readonly nodes: Node[] = [];
  readonly inputs = new Map<string, Value>();
  readonly outputs = new Map<string, Value>();
  /** Values a full recomputation starts from: the inputs of the repeated layers (see `boundary`). */
  readonly boundaries = new Set<Value>();
  private readonly tensors = new Map<number, Value>();
  private scopePath = "";
  private currentPhase: Phase = "forward";
  private valueCount = 0;
  private nameCount = 0;

  nextValueId(): number {
    return this.valueCount++;
  }

  freshName(stem: string): string {
    return `${stem}.${this.nameCount++}`;
  }

  get phase(): Phase {
    return this.currentPhase;
  }

  /** An array the host fills before each run. */
  input(name: string, dtype: DType, shape: Shape): Value {
    const found = this.inputs.get(name);
    if (found) {
      if (found.dtype !== dtype || found.shape.join() !== shape.join()) {
        throw new GraphError(`input "${name}" was declared as ${found} and now as ${dtype}[${shape.join(",")}]`);
      }
      return found;
    }
    const value = new Value(this, "input", { dtype, shape }, { name });
    this.inputs.set(name, value);
    return value;
  }

  /** A persistent tensor as a value of this graph (one value a tensor); `mutable` lets this graph update it in place. */
  use(tensor: Tensor, options: { mutable?: boolean } = {}): Value {
    let value = this.tensors.get(tensor.id);
    if (!value) {
      value = new Value(this, "tensor", tensor, { tensor, name: tensor.name });
      this.tensors.set(tensor.id, value);
    }
    if (options.mutable) value.mutable = true;
    return value;
  }

  /** Name a value the host reads after a run; it keeps its own memory until then. */
  output(name: string, value: Value): void {
    if (value.graph !== this) throw new GraphError(`output "${name}" belongs to another graph`);
    this.outputs.set(name, value);
  }

  /** Mark a value as the input of a repeated block: recomputing "everything" still keeps it. */
  boundary(value: Value): Value {
    this.boundaries.add(value);
    return value;
  }

  /** Run `body` with `name` added to the path that its nodes are labelled with. */
  scope<T>(name: string, body: () => T): T {
    const outer = this.scopePath;
    this.scopePath = outer ? `${outer}.${name}` : name;
    try {
      return body();
    } finally {
      this.scopePath = outer;
    }
  }

  /** Run `body` with its nodes belonging to `phase`. */
  inPhase<T>(phase: Phase, body: () => T): T {
    const outer = this.currentPhase;
    this.currentPhase = phase;
    try {
      return body();
    } finally {
      this.currentPhase = outer;
    }
  }

  /** Record `op(inputs)`; returns its outputs. */
  apply<A extends Attrs>(op: Op<A>, inputs: readonly (Value | null)[], attrs: A, scope?: string): readonly Value[] {
    for (const value of inputs) {
      if (value && value.graph !== this) throw new GraphError(`${op.name}: ${value} belongs to another graph`);
    }
    // Ops are stored without their attribute type: an op only ever sees attributes it was applied with.
    const node = new Node(this, op as unknown as Op, inputs, attrs, {
      scope: scope ?? this.scopePath,
      phase: this.currentPhase,
    });
    this.nodes.push(node);
    return node.outputs;
  }
}

/** Apply an op with one output to values of one graph. */
export function apply1<A extends Attrs>(op: Op<A>, inputs: readonly (Value | null)[], attrs: A): Value {
  return graphOf(inputs).apply(op, inputs, attrs)[0]!;
}

/** The graph that these values belong to. */
export function graphOf(inputs: readonly (Value | null)[]): Graph {
  for (const value of inputs) if (value) return value.graph;
  throw new GraphError("an op needs at least one input");
}
