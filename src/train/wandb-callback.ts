import { OptionError } from "../util/options.ts";
import type { CallbackContext, LogRow, TrainerCallback } from "./callbacks.ts";
import { tagOf } from "./tensorboard-callback.ts";

/** What of @wandb/sdk is used. */
export interface Wandb {
  init(options: { project: string; name: string; config: Record<string, unknown> }): Promise<unknown>;
  log(data: Record<string, unknown>): void;
  finish(): Promise<void>;
}

const PACKAGE = "@wandb/sdk";

/**
 * Sends logs to Weights & Biases through the package @wandb/sdk, which is not installed with this library; the project is
 * WANDB_PROJECT, or "huggingface" as in transformers. Training does not begin when it cannot be loaded.
 */
export class WandbCallback implements TrainerCallback {
  private readonly load: () => Promise<Wandb>;
  private sdk: Wandb | null = null;

  constructor(load: () => Promise<Wandb> = loadSdk) {
    this.load = load;
  }

  async onTrainBegin({ args, model }: CallbackContext): Promise<void> {
    const sdk = await this.load();
    const project = process.env.WANDB_PROJECT ?? "huggingface";
    await sdk.init({ project, name: args.runName ?? args.outputDir, config: { ...model.hfConfig, ...args } });
    this.sdk = sdk;
  }

  onLog({ state }: CallbackContext, logs: LogRow): void {
    const tagged = Object.entries(logs).map(([key, value]) => [tagOf(key), value]);
    this.sdk?.log({ ...Object.fromEntries(tagged), "train/global_step": state.globalStep });
  }

  async onTrainEnd(): Promise<void> {
    await this.sdk?.finish();
    this.sdk = null;
  }
}

async function loadSdk(): Promise<Wandb> {
  // A name that is not a literal: the package need not be there when this is compiled.
  const name: string = PACKAGE;
  try {
    const module = (await import(name)) as { default: Wandb };
    return module.default;
  } catch (cause) {
    throw new OptionError(`reportTo "wandb" needs the package ${PACKAGE}: npm install ${PACKAGE}`, { cause });
  }
}
