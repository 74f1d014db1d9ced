/** Unsloth's two strings: what opens a user's turn, and what opens a response. Those left out are the template's. */
export interface ResponseParts {
  instructionPart?: string;
  responsePart?: string;
}
