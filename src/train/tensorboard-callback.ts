import { hostname } from "node:os";
import { join } from "node:path";
import { TensorBoardWriter } from "../formats/tensorboard.ts";
import { argumentsToJson } from "./arguments.ts";
import type { CallbackContext, LogRow, TrainerCallback } from "./callbacks.ts";

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Writes logs as a run that TensorBoard shows, with the tags and folders of Hugging Face's TensorBoardCallback. */
export class TensorBoardCallback implements TrainerCallback {
  private writer: TensorBoardWriter | null = null;

  onTrainBegin({ args, model }: CallbackContext): void {
    const writer = this.open(args);
    writer.text("args", argumentsToJson(args));
    writer.text("model_config", JSON.stringify(model.hfConfig, null, 2));
  }

  onLog({ args, state }: CallbackContext, logs: LogRow): void {
    const tagged = Object.entries(logs).map(([key, value]) => [tagOf(key), value]);
    this.open(args).scalars(Object.fromEntries(tagged), state.globalStep);
  }

  onTrainEnd(): void {
    this.writer?.close();
    this.writer = null;
  }

  private open(args: CallbackContext["args"]): TensorBoardWriter {
    const { TENSORBOARD_LOGGING_DIR: environment } = process.env;
    const folder = args.loggingDir ?? environment ?? join(args.outputDir, "runs", `${startTime()}_${hostname()}`);
    this.writer ??= new TensorBoardWriter(folder);
    return this.writer;
  }
}

/** eval_loss → eval/loss, test_loss → test/loss, loss → train/loss. */
export function tagOf(key: string): string {
  const [, group, name] = /^(eval|test)_(.*)$/.exec(key) ?? [];
  return group === undefined ? `train/${key}` : `${group}/${name}`;
}

/** Local time as in Jan31_23-59-59. */
function startTime(now = new Date()): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const time = [now.getHours(), now.getMinutes(), now.getSeconds()].map(two).join("-");
  return `${MONTHS[now.getMonth()]}${two(now.getDate())}_${time}`;
}
