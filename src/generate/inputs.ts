/** Inputs of `compileExtend`. */
export interface NewTokens {
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly slots: Int32Array;
  readonly rows: Int32Array;
  readonly lengths: Int32Array;
}

/** Tokens that go to no slot and see nothing. */
export function newTokens(count: number): NewTokens {
  return {
    ids: new Int32Array(count),
    positions: new Int32Array(count),
    slots: new Int32Array(count).fill(-1),
    rows: new Int32Array(count).fill(-1),
    lengths: new Int32Array(count),
  };
}

/** Make entry `at` a token at a position of a sequence whose cache has `maxLength` rows. */
export function placeToken(
  inputs: NewTokens,
  at: number,
  id: number,
  { sequence, position }: { sequence: number; position: number },
  maxLength: number,
): void {
  inputs.ids[at] = id;
  inputs.positions[at] = position;
  inputs.rows[at] = sequence;
  inputs.slots[at] = sequence * maxLength + position;
  inputs.lengths[at] = position + 1;
}

/** Inputs of `compileSteps` for tokens that several steps go on from; all but the random numbers. */
export function stepInputs({ ids, rows, ...first }: NewTokens, steps: number): Record<string, Int32Array> {
  const inputs: Record<string, Int32Array> = { ids, rows };
  for (let step = 0; step < steps; step++) {
    inputs[`positions.${step}`] = first.positions.map((position) => position + step);
    // Sequences without a token stay without.
    inputs[`slots.${step}`] = first.slots.map((slot) => (slot < 0 ? slot : slot + step));
    inputs[`lengths.${step}`] = first.lengths.map((length) => (length === 0 ? 0 : length + step));
  }
  return inputs;
}

/** Inputs of `compilePrefill` for prompts that go to the cache rows from their `slots` on; `ends`: their last tokens. */
export function packPrompts(prompts: readonly (readonly number[])[], slots: readonly number[], count: number) {
  // Tokens past the end are sequences of their own that go to no slot.
  const inputs = {
    ids: new Int32Array(count),
    positions: new Int32Array(count),
    seqStart: Int32Array.from({ length: count }, (_, t) => t),
    seqEnd: Int32Array.from({ length: count }, (_, t) => t + 1),
    slots: new Int32Array(count).fill(-1),
  };
  let at = 0;
  const ends = prompts.map((prompt, i) => {
    const start = at;
    prompt.forEach((id, position) => {
      inputs.ids[at] = id;
      inputs.positions[at] = position;
      inputs.seqStart[at] = start;
      inputs.seqEnd[at] = start + prompt.length;
      inputs.slots[at] = slots[i]! + position;
      at++;
    });
    return at - 1;
  });
  return { ...inputs, ends };
}

/** Tokens that both begin with; at most one less than the prompt has: its last is processed for what comes after it. */
export function commonPrefix(cached: readonly number[], prompt: readonly number[]): number {
  const most = Math.min(cached.length, prompt.length - 1);
  let length = 0;
  while (length < most && cached[length] === prompt[length]) length++;
  return length;
}
