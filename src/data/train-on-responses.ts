import { knownOptions } from "../util/options.ts";
import type { ResponseParts } from "./responses.ts";

/** What `trainOnResponsesOnly` takes: a trainer, or a data set. */
export interface ResponsesTrainable {
  trainOnResponsesOnly(parts?: ResponseParts): this;
}

/** The last two are Unsloth's, about how it searches. */
const OPTIONS = ["instructionPart", "responsePart", "numProc", "forceMatch"];

/**
 * Unsloth's train_on_responses_only: only what the model is to write is trained on, each turn with the token that ends it.
 * Of conversations (and Alpaca, and prompt/completion rows) that is the assistant's turns, as the chat template renders
 * them. Text that is a rendered conversation is searched for the two parts, which are the template's unless given.
 *
 *     trainOnResponsesOnly(trainer, { instructionPart: "<|im_start|>user\\n", responsePart: "<|im_start|>assistant\\n" });
 *
 * A trainer's own data is masked anew and the trainer returned; a data set stays as it is and a marked one is returned.
 * Throws `FormatError` where parts given are not the template's, and where no row is left with a target.
 */
export function trainOnResponsesOnly<T extends ResponsesTrainable>(target: T, parts: ResponseParts = {}): T {
  const { numProc: _, forceMatch: __, ...given } = knownOptions("trainOnResponsesOnly", OPTIONS, parts);
  return target.trainOnResponsesOnly(given);
}
