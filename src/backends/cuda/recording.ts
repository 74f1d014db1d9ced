import type { CopyQueue } from "./copies.ts";
import type { CudaDevice } from "./device.ts";
import type { Work } from "./emit.ts";

/** A program's work as CUDA graphs, with what differs from run to run enqueued between them. */
export interface Recording {
  run(): void;
  dispose(): void;
}

/** Record `works`, in order. Copies that are under way end with the graph that they start in. */
export function record(device: CudaDevice, works: readonly Work[], copies: CopyQueue): Recording {
  const parts: { launch: () => void; dispose: () => void }[] = [];
  const dispose = (): void => {
    for (const part of parts.splice(0)) part.dispose();
  };
  try {
    for (let at = 0; at < works.length; ) {
      const { fixed, run } = works[at]!;
      let end = at + 1;
      if (!fixed) parts.push({ launch: run, dispose: () => undefined });
      else {
        while (end < works.length && works[end]!.fixed) end++;
        const part = works.slice(at, end);
        parts.push(
          device.capture(() => {
            for (const work of part) work.run();
            copies.join();
          }),
        );
      }
      at = end;
    }
  } catch (error) {
    dispose();
    throw error;
  }
  return {
    run: () => {
      for (const { launch } of parts) launch();
    },
    dispose,
  };
}
