/** What trainer_state.json holds, in Hugging Face's terms. */
export interface TrainerState {
  epoch: number;
  globalStep: number;
  maxSteps: number;
  numTrainEpochs: number;
  trainBatchSize: number;
  loggingSteps: number;
  saveSteps: number;
  evalSteps: number;
  numInputTokensSeen: number;
  /** Tokens of all kinds trained on, for TRL's num_tokens. */
  logHistory: Record<string, number>[];
  bestMetric: number | null;
  bestGlobalStep: number | null;
  bestModelCheckpoint: string | null;
}

/** The file's content: keys in snake_case, sorted, two spaces, as Hugging Face writes it. */
export function stateToJson(state: TrainerState): string {
  const row: Record<string, unknown> = {
    best_global_step: state.bestGlobalStep,
    best_metric: state.bestMetric,
    best_model_checkpoint: state.bestModelCheckpoint,
    epoch: state.epoch,
    eval_steps: state.evalSteps,
    global_step: state.globalStep,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: state.logHistory,
    logging_steps: state.loggingSteps,
    max_steps: state.maxSteps,
    num_input_tokens_seen: state.numInputTokensSeen,
    num_train_epochs: state.numTrainEpochs,
    save_steps: state.saveSteps,
    stateful_callbacks: {},
    total_flos: 0,
    train_batch_size: state.trainBatchSize,
    trial_name: null,
    trial_params: null,
  };
  return `${JSON.stringify(row, null, 2)}\n`;
}

/** The parts of a trainer_state.json that resuming needs. */
export function stateFromJson(
  text: string,
  file: string,
): Pick<TrainerState, "globalStep" | "epoch" | "logHistory" | "numInputTokensSeen"> {
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(text) as Record<string, unknown>;
  } catch (error) {
    throw new Error(`${file}: not valid JSON (${error instanceof Error ? error.message : error})`);
  }
  const number = (name: string): number => {
    const value = json?.[name];
    if (typeof value !== "number" || !Number.isFinite(value))
      throw new Error(`${file}: ${name} must be a number, found ${JSON.stringify(value)}`);
    return value;
  };
  const history = json.log_history;
  if (!Array.isArray(history)) throw new Error(`${file}: log_history must be a list, found ${typeof history}`);
  return {
    globalStep: number("global_step"),
    epoch: number("epoch"),
    numInputTokensSeen: number("num_input_tokens_seen"),
    logHistory: history as Record<string, number>[],
  };
}
