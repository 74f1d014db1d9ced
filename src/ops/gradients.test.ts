import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { runtimes } from "../testing/kernels.ts";
import { checkOpCase, OP_CASES } from "../testing/op-cases.ts";

for (const [runtimeName, runtime] of await runtimes()) {
  const backend = new CpuBackend(runtime);
  backend.poison = true;
  for (const [name, spec] of Object.entries(OP_CASES)) {
    test(`${name}: value and gradients equal float64 (${runtimeName})`, () => checkOpCase(backend, spec));
  }
}
