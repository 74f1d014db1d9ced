import { test } from "node:test";
import { checkOpCase, OP_CASES } from "../../testing/op-cases.ts";
import { gpu, skipOf } from "./gpu.test.support.ts";

for (const dtype of ["f32", "bf16", "f16"] as const) {
  for (const [name, spec] of Object.entries(OP_CASES)) {
    test(`${name}: value and gradients equal float64's (CUDA, ${dtype})`, { skip: skipOf(dtype) }, async () => {
      const backend = gpu(dtype);
      backend.poison = true;
      await checkOpCase(backend, spec, dtype);
    });
  }
}
