import type { Node, Value } from "../../graph/graph.ts";
import { numel } from "../../graph/types.ts";
import type { Address, KernelArgument } from "./runtime.ts";

/** What lowering a node may ask for and do. Addresses are 0 while only the workspace is being sized. */
export interface Lowering {
  /** Address of a value; 0 when it is absent. */
  address(value: Value | null | undefined): Address;
  /** A matrix in any storage type as the kernels' 7 words. */
  weight(value: Value): readonly KernelArgument[];
  /** Append an instruction. */
  emit(kernel: string, args: readonly KernelArgument[]): void;
}

export type Lower = (node: Node, to: Lowering) => void;

export const size = (value: Value): number => numel(value.shape);
export const rowsOf = (value: Value): number => (value.shape.length === 1 ? 1 : value.shape[0]!);
export const colsOf = (value: Value): number => value.shape[value.shape.length - 1]!;
export const number = (node: Node, name: string): number => node.attrs[name] as number;
