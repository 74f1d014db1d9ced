/** Rewards of one's own for `unsloth grpo`: lists with an element a completion come in, and as many numbers go out. */
export const brevity = ({ completionIds }) => completionIds.map((ids) => -ids.length / 32);
