import type { Node, Value } from "./graph.ts";
import type { TensorSpec } from "./types.ts";

/** Attributes of an op: plain data, so that a program can be printed, compared and cloned. */
export type Attrs = Readonly<Record<string, number | string | boolean | null>>;

/** Work of one node, for the planner's keep-or-recompute choice. */
export interface Cost {
  /** Floating-point operations. */
  readonly flops: number;
  /** Bytes read and written. */
  readonly bytes: number;
}

/** What an op's `vjp` sees: the forward node, the gradients of its outputs, and where to put those of its inputs. */
export interface VjpContext<A extends Attrs = Attrs> {
  readonly node: Node;
  readonly attrs: A;
  /** Gradient of output `index`, or null when nothing depends on it. */
  grad(index: number): Value | null;
  /** Whether a gradient for input `index` is wanted. */
  needs(index: number): boolean;
  /**
   * Contribute to the gradient of input `index`. `emit` is called only when it is wanted; `acc`, when not null, is the
   * gradient so far and must be added to (by an op that accumulates in place, or with `add`).
   */
  give(index: number, emit: (acc: Value | null) => Value): void;
  /**
   * The gradient of input `index` so far, for ops that produce several gradients at once: the caller must then `give`
   * one that includes it.
   */
  accumulator(index: number): Value | null;
  /**
   * `better` computes the same as `output`, as a by-product of the derivative: use it wherever the host reads the
   * output, so that the forward node is not needed for that any more.
   */
  supersede(output: Value, better: Value): void;
}

/**
 * One operation: everything the graph needs to know about it. Kernels live in the backends, found by `name`.
 * An op is pure (same inputs, same outputs) unless an in-place rule makes it update a tensor.
 */
export interface Op<A extends Attrs = Attrs> {
  readonly name: string;
  /** Check the inputs and give the outputs' types and shapes. Throws GraphError with what was found and expected. */
  infer(inputs: readonly (Value | null)[], attrs: A): TensorSpec[];
  /** Reverse-mode derivative, emitted as more ops. Absent: not differentiable. */
  vjp?(context: VjpContext<A>): void;
  /** The outputs count as constants: whatever the inputs depend on, nothing behind them is differentiated. */
  readonly constant?: boolean;
  cost?(node: Node): Cost;
  /**
   * Pairs [output, input]: the output may be written over the input's memory. The planner uses it when the input dies
   * here; for an input that is a mutable tensor it always does: that is how an op updates a tensor.
   */
  inPlace?(node: Node): readonly (readonly [number, number])[];
  /** Results may differ by rounding with whether they are written over an input: library products. */
  readonly placeMatters?: boolean;
  /** The output is the input's memory under another shape: no kernel runs. */
  readonly view?: boolean;
  /** A local rewrite after differentiation; returns true when it changed the graph (see Graph.replace). */
  fuse?(node: Node, uses: (value: Value) => number): FusedNode | null;
}

/** Result of a fusion: `node` becomes `op(inputs, attrs)`, and `absorbed` is dropped. */
export interface FusedNode {
  readonly inputs: readonly (Value | null)[];
  readonly attrs: Attrs;
  readonly absorbed: Node;
}
