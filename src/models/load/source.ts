import type { PartName } from "../../backends/backend.ts";
import type { Shape } from "../../graph/types.ts";
import type { DecoderConfig } from "../config.ts";
import type { Family } from "../family.ts";

/** Storage types of weights that are plain numbers. */
export type DenseDType = "f32" | "bf16" | "f16";

/** Fills `target` with a weight's bytes from byte `offset` on. */
export type ReadBytes = (target: Uint8Array, offset: number) => void;

/** A weight as rows of numbers. */
export interface DenseWeight {
  readonly kind: "dense";
  /** Name in the file, for messages. */
  readonly name: string;
  /** Type of the bytes that `read` gives. */
  readonly dtype: DenseDType;
  /** The file's own type was block-quantised: `dtype` is only what it decodes to. */
  readonly decoded: boolean;
  readonly shape: Shape;
  /** Bytes it takes in the file. */
  readonly fileBytes: number;
  readonly read: ReadBytes;
}

/** A weight that the file has in bitsandbytes' NF4. */
export interface Nf4Weight {
  readonly kind: "nf4";
  readonly name: string;
  readonly shape: Shape;
  readonly blockSize: number;
  readonly doubleQuant: boolean;
  readonly nestedOffset: number;
  readonly fileBytes: number;
  readonly parts: ReadonlyMap<PartName, { readonly bytes: number; readonly read: ReadBytes }>;
}

/** A tensor of a type that cannot be a parameter; it does no harm unless one needs it. */
export interface UnsupportedWeight {
  readonly kind: "unsupported";
  readonly name: string;
  readonly shape: Shape;
  /** The file's name of the type. */
  readonly type: string;
  readonly supported: string;
}

/** A weight that can be loaded. */
export type ReadableWeight = DenseWeight | Nf4Weight;

export type SourceWeight = ReadableWeight | UnsupportedWeight;

/** A model on disk: its configuration and its weights, of which nothing but headers has been read yet. */
export interface ModelSource extends Disposable {
  /** The folder or file, for messages. */
  readonly path: string;
  readonly family: Family;
  readonly decoder: DecoderConfig;
  /** config.json, read or, for GGUF, made from the metadata. */
  readonly hfConfig: Readonly<Record<string, unknown>>;
  /** generation_config.json; null when there is none. */
  readonly generationConfig: Readonly<Record<string, unknown>> | null;
  /** By Hugging Face's parameter name, in the order of their bytes in the files. */
  readonly weights: ReadonlyMap<string, SourceWeight>;
}
