import { parentPort, workerData } from "node:worker_threads";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { type Answer, runTask, type Task, toMessage, type WorkerData } from "./prepare-pool.ts";
import { Recipe } from "./recipes.ts";

/** A thread of `tokenizeTasks`. */
const { files, options } = workerData as WorkerData;
const port = parentPort!;
const recipe = new Recipe(Tokenizer.fromFiles(Object.fromEntries(files)), options);

port.on("message", (task: Task) => {
  try {
    const block = runTask(recipe, task);
    port.postMessage({ block } satisfies Answer, [block.data.buffer as ArrayBuffer, block.index.buffer as ArrayBuffer]);
  } catch (error) {
    port.postMessage({ error: toMessage(error) } satisfies Answer);
  }
});
