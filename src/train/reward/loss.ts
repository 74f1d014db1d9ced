import { add } from "../../ops/add.ts";
import { mul, scale, sub, unary } from "../../ops/elementwise.ts";
import { selectRows } from "../../ops/embedding.ts";
import { sum, sumRows } from "../../ops/reduce.ts";
import type { ComputeLoss, HostLogs } from "../loss.ts";

export interface RewardLossOptions {
  /** Weight of mean((r_c + r_r)²), which pulls rewards to mean zero (Eisenstein et al. 2023, eq. 2); null: none. */
  readonly centerRewardsCoefficient: number | null;
  /** Trace the model without its adapter's dropout. */
  readonly disableDropout: boolean;
}

/**
 * −log σ(r_c − r_r − margin), the mean over pairs (Bradley and Terry 1952; Stiennon et al. 2020), r the score head's output
 * at a sequence's last token. Batches carry i32[n] "chosen" and "rejected", the rows of those tokens, and f32[n] "margin".
 */
export function rewardLoss({ centerRewardsCoefficient, disableDropout }: RewardLossOptions): ComputeLoss {
  return ({ trace: own, traceWith, tokens, input, lossScale }) => {
    const trace = disableDropout ? traceWith(own.model.adapter) : own;
    const hidden = trace.hidden(tokens);
    const rewards = (rows: string) => sumRows(trace.scores(selectRows(hidden, input(rows))));
    const [chosen, rejected] = [rewards("chosen"), rewards("rejected")];
    const preferred = scale(unary("logSigmoid", sub(sub(chosen, rejected), input("margin"))), -1);
    const losses =
      centerRewardsCoefficient === null
        ? preferred
        : add(preferred, scale(unary("square", add(chosen, rejected)), centerRewardsCoefficient));
    return { loss: mul(sum(losses), lossScale), arrays: { chosen, rejected }, hostLogs };
  };
}

/** TRL's metrics of a batch. */
const hostLogs: HostLogs = ({ chosen, rejected }) => {
  const all = [...chosen!, ...rejected!];
  const mean = (values: ArrayLike<number>): number =>
    (Array.prototype.reduce.call(values, (sum, x) => (sum as number) + (x as number), 0) as number) / values.length;
  return {
    min_reward: Math.min(...all),
    mean_reward: mean(all),
    max_reward: Math.max(...all),
    accuracy: mean(chosen!.map((reward, i) => (reward > rejected![i]! ? 1 : 0))),
    margin: mean(chosen!.map((reward, i) => reward - rejected![i]!)),
  };
};
