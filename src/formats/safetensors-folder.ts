import { existsSync } from "node:fs";
import { join } from "node:path";
import { ByteFile } from "./byte-file.ts";
import { FormatError, show } from "./errors.ts";
import { openSafetensors, type SafetensorsFile, type SafetensorsSource } from "./safetensors-file.ts";
import { MAX_HEADER_BYTES, type SafetensorsInfo } from "./safetensors-header.ts";
import { isJsonObject, parseJsonObject } from "./strict-json.ts";
import { noSuchTensor } from "./tensor-file.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

/**
 * Opens a model's folder: `model.safetensors`, or the shards named by `model.safetensors.index.json`, as one map of
 * tensors. With both, the single file is used, as transformers does. Throws `FormatError`, with nothing left open.
 */
export function openSafetensorsFolder(folder: string): SafetensorsSource {
  const single = join(folder, SINGLE_FILE);
  if (existsSync(single)) return openSafetensors(single);
  if (existsSync(join(folder, INDEX_FILE))) return new ShardedSafetensors(folder);
  throw new FormatError({
    file: folder,
    field: "folder",
    found: existsSync(folder) ? "neither of the two files" : "no such folder",
    expected: `${SINGLE_FILE} or ${INDEX_FILE}`,
  });
}

class ShardedSafetensors implements SafetensorsSource {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, SafetensorsInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly #shards = new Map<string, SafetensorsFile>();
  readonly #shardOf = new Map<string, SafetensorsFile>();

  constructor(folder: string) {
    this.path = folder;
    const indexPath = join(folder, INDEX_FILE);
    try {
      for (const [name, shardName] of readWeightMap(indexPath)) {
        const shard = this.#shard(folder, indexPath, name, shardName);
        if (!shard.tensors.has(name))
          throw new FormatError({
            file: indexPath,
            field: `weight_map ${show(name)}`,
            found: `${shardName}, which has no tensor of that name`,
            expected: "the shard that holds it",
          });
        this.#shardOf.set(name, shard);
      }
    } catch (error) {
      this.close();
      throw error;
    }
    // Read in this order, every shard is read from front to back.
    const shards = [...this.#shards].sort(([a], [b]) => (a < b ? -1 : 1));
    this.tensors = new Map(
      shards.flatMap(([, shard]) => [...shard.tensors].filter(([name]) => this.#shardOf.get(name) === shard)),
    );
    this.metadata = this.#shards.values().next().value?.metadata ?? new Map();
  }

  async readInto(name: string, target: Uint8Array, offset?: number, length?: number): Promise<void> {
    await this.#holder(name).readInto(name, target, offset, length);
  }

  readIntoSync(name: string, target: Uint8Array, offset?: number, length?: number): void {
    this.#holder(name).readIntoSync(name, target, offset, length);
  }

  close(): void {
    for (const shard of this.#shards.values()) shard.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #holder(name: string): SafetensorsFile {
    const shard = this.#shardOf.get(name);
    if (!shard) throw noSuchTensor(this.path, name, this.tensors.size);
    return shard;
  }

  #shard(folder: string, indexPath: string, name: string, shardName: string): SafetensorsFile {
    let shard = this.#shards.get(shardName);
    if (shard) return shard;
    const path = join(folder, shardName);
    if (!existsSync(path))
      throw new FormatError({
        file: indexPath,
        field: `weight_map ${show(name)}`,
        found: `${shardName}, which is not in the folder`,
        expected: "all shards beside the index (an incomplete download?)",
      });
    shard = openSafetensors(path);
    this.#shards.set(shardName, shard);
    return shard;
  }
}

/** `weight_map` of an index file: tensor name to shard file name, each a plain name in the same folder. */
function readWeightMap(indexPath: string): [string, string][] {
  const file = new ByteFile(indexPath);
  let bytes: Uint8Array;
  try {
    if (file.size > MAX_HEADER_BYTES)
      throw new FormatError({
        file: indexPath,
        field: "file length",
        found: `${file.size} bytes`,
        expected: `at most ${MAX_HEADER_BYTES} bytes`,
      });
    bytes = new Uint8Array(file.size);
    file.readSync(bytes, 0, "index");
  } finally {
    file.close();
  }
  const { weight_map: map } = parseJsonObject(bytes, indexPath, "index");
  if (!isJsonObject(map))
    throw new FormatError({
      file: indexPath,
      field: "weight_map",
      found: show(map),
      expected: "an object from tensor names to shard file names",
    });
  return Object.entries(map).map(([name, shardName]) => {
    // A downloaded index must not be able to name a file outside its folder.
    if (typeof shardName !== "string" || !/^[^/\\:\0]+\.safetensors$/.test(shardName))
      throw new FormatError({
        file: indexPath,
        field: `weight_map ${show(name)}`,
        found: show(shardName),
        expected: "a plain file name ending in .safetensors",
      });
    return [name, shardName];
  });
}
