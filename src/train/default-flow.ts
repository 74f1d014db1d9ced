import type { CallbackContext, TrainerCallback } from "./callbacks.ts";

/** When to log, evaluate, save and stop by the training arguments: Hugging Face's DefaultFlowCallback. */
export class DefaultFlowCallback implements TrainerCallback {
  onStepEnd({ args, state, control }: CallbackContext): void {
    const { globalStep } = state;
    const due = (strategy: string, every: number): boolean => strategy === "steps" && globalStep % every === 0;
    const mayEvaluate = args.evalDelay <= globalStep;
    if (args.loggingFirstStep && globalStep === 1) control.shouldLog = true;
    if (due(args.loggingStrategy, state.loggingSteps)) control.shouldLog = true;
    if (due(args.evalStrategy, state.evalSteps) && mayEvaluate) control.shouldEvaluate = true;
    if (due(args.saveStrategy, state.saveSteps)) control.shouldSave = true;
    if (globalStep < state.maxSteps) return;
    control.shouldTrainingStop = true;
    // The last step is evaluated and saved whatever the interval.
    if (args.evalStrategy === "steps" && mayEvaluate) control.shouldEvaluate = true;
    if (args.saveStrategy === "steps") control.shouldSave = true;
  }

  onEpochEnd({ args, state, control }: CallbackContext): void {
    if (args.loggingStrategy === "epoch") control.shouldLog = true;
    if (args.evalStrategy === "epoch" && args.evalDelay <= state.epoch) control.shouldEvaluate = true;
    if (args.saveStrategy === "epoch") control.shouldSave = true;
  }
}
