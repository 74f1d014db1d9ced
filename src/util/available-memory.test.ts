import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../formats/files.test.support.ts";
import { availableMemory, controlGroupHeadroom } from "./available-memory.ts";

test("the process's own limits are found, by either version of control groups", (t) => {
  const root = temporaryFolder(t);
  const write = (path: string, text: string) => {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  const headroom = (membership: string) => {
    write("membership", membership);
    return controlGroupHeadroom(join(root, "membership"), join(root, "groups"));
  };
  write("groups/pods/memory.max", "1000\n");
  write("groups/pods/memory.current", "900\n");
  write("groups/pods/memory.stat", "anon 300\ninactive_file 500\nactive_file 100\n");
  write("groups/pods/mine/memory.max", "max\n");
  write("groups/pods/mine/memory.current", "800\n");
  // The parent's limit holds; of its 900 bytes 600 are cached files, which give way.
  assert.equal(headroom("0::/pods/mine\n"), 700);
  assert.equal(headroom("0::/elsewhere\n"), Number.POSITIVE_INFINITY);
  write("groups/memory/limit_v1/memory.limit_in_bytes", "5000");
  write("groups/memory/limit_v1/memory.usage_in_bytes", "4000");
  write("groups/memory/limit_v1/memory.stat", "total_inactive_file 10\ntotal_active_file 20\ninactive_file 7\n");
  assert.equal(headroom("12:cpu:/limit_v1\n4:hugetlb,memory:/limit_v1\n"), 1030);
  assert.equal(controlGroupHeadroom(join(root, "nothing"), root), Number.POSITIVE_INFINITY);
});

test("there is some memory on this machine", () => {
  assert.ok(availableMemory() > 2 ** 20);
});
