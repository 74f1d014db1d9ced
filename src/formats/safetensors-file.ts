import { ByteFile } from "./byte-file.ts";
import { FormatError } from "./errors.ts";
import { parseHeader, parseHeaderLength, type SafetensorsHeader, type SafetensorsInfo } from "./safetensors-header.ts";
import { TensorFile, type TensorSource } from "./tensor-file.ts";

/** One safetensors file, or the shards of a model. */
export interface SafetensorsSource extends TensorSource<SafetensorsInfo> {
  /** `__metadata__`; of the first shard, if there are several. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** One safetensors file, validated. Only the header is held in memory. */
export class SafetensorsFile extends TensorFile<SafetensorsInfo> implements SafetensorsSource {
  readonly metadata: ReadonlyMap<string, string>;

  constructor(file: ByteFile, header: SafetensorsHeader) {
    super(file, header.tensors);
    this.metadata = header.metadata;
  }
}

/** Opens and validates one safetensors file. Throws `FormatError`, with nothing left open. */
export function openSafetensors(path: string): SafetensorsFile {
  const file = new ByteFile(path);
  try {
    const { size } = file;
    if (size < 8)
      throw new FormatError({ file: path, field: "file length", found: `${size} bytes`, expected: "at least 8 bytes" });
    const first8 = new Uint8Array(8);
    file.readSync(first8, 0, "header length");
    const header = new Uint8Array(parseHeaderLength(first8, path, size));
    file.readSync(header, 8, "header");
    return new SafetensorsFile(file, parseHeader(header, path, size - 8 - header.length));
  } catch (error) {
    file.close();
    throw error;
  }
}
