import type { Backend } from "../backends/backend.ts";

/** Bytes of all tensors of a backend. */
const held = (backend: Backend): number => Object.values(backend.memory().tensors).reduce((sum, n) => sum + n, 0);

/**
 * Runs `body` again and again, the first tensor it makes failing as if there were no memory for it, then the second, and so
 * on until none does; what `body` makes in the end is disposed. Gives the bytes that each failure left behind, by the name
 * of the tensor that failed.
 */
export async function leakedBytes(
  backend: Backend,
  body: () => Promise<{ dispose(): void }> | { dispose(): void },
): Promise<Record<string, number>> {
  const create = backend.createTensor;
  const leaks: Record<string, number> = {};
  for (let failing = 0; ; failing++) {
    const before = held(backend);
    let made = 0;
    let failed: string | null = null;
    backend.createTensor = (name, ...rest) => {
      if (made++ === failing) {
        failed = name;
        throw new Error("no memory");
      }
      return create.call(backend, name, ...rest);
    };
    try {
      (await body()).dispose();
    } catch (error) {
      if (failed === null) throw error;
    } finally {
      backend.createTensor = create;
    }
    const left = held(backend) - before;
    if (left !== 0) leaks[failed ?? "none"] = left;
    if (failed === null) return leaks;
  }
}
