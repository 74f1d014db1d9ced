import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile, syncFolder } from "./atomic.ts";
import { FormatError } from "./errors.ts";
import { INDEX_FILE, SINGLE_FILE } from "./safetensors-folder.ts";
import { duplicateName, sizeTensor, type TensorToWrite, writeSafetensors } from "./safetensors-writer.ts";

export interface ShardOptions {
  /** Bytes of tensors in one file; a larger tensor gets a file of its own. Default 5 GB, as huggingface_hub. */
  readonly maxShardBytes?: number;
  /** `__metadata__` of every file. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** More entries for the index's `metadata`, beside `total_size` (transformers writes `total_parameters`). */
  readonly indexMetadata?: Readonly<Record<string, string | number>>;
}

/**
 * Writes a model's tensors into an existing folder: `model.safetensors` if they fit one shard, else
 * `model-00001-of-0000N.safetensors` … and `model.safetensors.index.json`, split in the given order as huggingface_hub
 * does. The files of a model that was there before are removed. Returns the names of the files written.
 *
 * Each file is atomic and the index comes last, so after a crash the folder holds the old model, the new one, or no
 * index: never an index over shards of both. To keep the old model through a crash, write to a fresh folder and rename.
 * Throws `FormatError` as `writeSafetensors` does.
 */
export async function writeSafetensorsFolder(
  folder: string,
  tensors: Iterable<TensorToWrite>,
  options: ShardOptions = {},
): Promise<string[]> {
  const { maxShardBytes = 5e9, metadata, indexMetadata } = options;
  if (!(maxShardBytes > 0))
    throw new FormatError({ field: "maxShardBytes", found: String(maxShardBytes), expected: "a positive number" });
  const { shards, totalBytes } = splitIntoShards(tensors, maxShardBytes, folder);
  const names = shards.map((_, i) => shardFileName(i, shards.length));
  const before = await modelFiles(folder);
  if (before.includes(INDEX_FILE) && names.some((name) => before.includes(name))) {
    await rm(join(folder, INDEX_FILE));
    await syncFolder(folder);
  }
  for (const [i, shard] of shards.entries()) await writeSafetensors(join(folder, names[i]!), shard, metadata);
  const written = [...names];
  if (shards.length > 1) {
    const weightMap = shards.flatMap((shard, i) => shard.map(({ name }) => [name, names[i]!] as const));
    await atomicWriteFile(
      join(folder, INDEX_FILE),
      encodeIndex({ ...indexMetadata, total_size: totalBytes }, weightMap),
    );
    written.push(INDEX_FILE);
  }
  for (const stale of before) {
    if (!written.includes(stale)) await rm(join(folder, stale), { force: true });
  }
  await syncFolder(folder);
  return written;
}

/** In order; a shard is closed when the next tensor would take it over the limit. At least one shard, maybe empty. */
function splitIntoShards(tensors: Iterable<TensorToWrite>, maxShardBytes: number, folder: string) {
  const shards: TensorToWrite[][] = [];
  let shard: TensorToWrite[] = [];
  let shardBytes = 0;
  let totalBytes = 0;
  const names = new Set<string>();
  for (const tensor of tensors) {
    if (names.has(tensor.name)) throw duplicateName(folder, tensor.name);
    names.add(tensor.name);
    const { byteLength } = sizeTensor(tensor, folder);
    totalBytes += byteLength;
    if (byteLength > maxShardBytes) {
      shards.push([tensor]);
      continue;
    }
    if (shardBytes + byteLength > maxShardBytes) {
      shards.push(shard);
      shard = [];
      shardBytes = 0;
    }
    shard.push(tensor);
    shardBytes += byteLength;
  }
  if (shard.length > 0 || shards.length === 0) shards.push(shard);
  return { shards, totalBytes };
}

function shardFileName(index: number, count: number): string {
  if (count === 1) return SINGLE_FILE;
  const five = (n: number) => String(n).padStart(5, "0");
  return `model-${five(index + 1)}-of-${five(count)}.safetensors`;
}

async function modelFiles(folder: string): Promise<string[]> {
  const names = await readdir(folder);
  return names.filter((name) => name === INDEX_FILE || /^model(-\d{5}-of-\d{5})?\.safetensors$/.test(name));
}

/** As Python's `json.dumps(index, indent=2, sort_keys=True) + "\n"`, which also escapes what is not ASCII. */
function encodeIndex(
  metadata: Readonly<Record<string, string | number>>,
  weightMap: readonly (readonly [string, string])[],
): string {
  const byKey = (a: readonly [string, unknown], b: readonly [string, unknown]) =>
    Buffer.from(a[0]).compare(Buffer.from(b[0]));
  // Joined by hand: an object would move keys that look like integers to the front.
  const lines = (pairs: readonly (readonly [string, unknown])[]) =>
    [...pairs].sort(byKey).map(([key, value]) => `    ${JSON.stringify(key)}: ${JSON.stringify(value)}`);
  const block = (name: string, pairs: readonly (readonly [string, unknown])[]) =>
    `  ${JSON.stringify(name)}: {\n${lines(pairs).join(",\n")}\n  }`;
  const json = `{\n${block("metadata", Object.entries(metadata))},\n${block("weight_map", weightMap)}\n}\n`;
  return json.replace(/[\u0080-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
