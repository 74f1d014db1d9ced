/** Operations on traced values for losses of one's own: each records itself and its derivative. */
export { add } from "../ops/add.ts";
export { crossEntropy, linearCrossEntropy } from "../ops/cross-entropy.ts";
export {
  binary,
  div,
  exp,
  log,
  logSigmoid,
  mul,
  neg,
  relu,
  scale,
  sigmoid,
  sub,
  tanh,
  unary,
} from "../ops/elementwise.ts";
export { selectRows } from "../ops/embedding.ts";
export { linearLogProbs, logProbs } from "../ops/log-probs.ts";
export { mean, meanRows, sum, sumRows } from "../ops/reduce.ts";
export { segmentSum, takeFrom } from "../ops/segment.ts";
export { logSoftmax } from "../ops/softmax.ts";
