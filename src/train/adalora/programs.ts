import type { Backend, DeviceTensor, Executable } from "../../backends/backend.ts";
import { differentiate } from "../../graph/autodiff.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import { add } from "../../ops/add.ts";
import { binary, mul, scale, sub, unary } from "../../ops/elementwise.ts";
import { matmul } from "../../ops/matmul.ts";
import { columnSum, meanRows, sum } from "../../ops/reduce.ts";

/** A trained tensor with its gradient and its smoothed importance. */
export interface Watched {
  readonly tensor: DeviceTensor;
  readonly gradient: DeviceTensor;
  /** Running means of |w·g|, and of how much that varies; as the tensor. */
  readonly importance: DeviceTensor;
  readonly uncertainty: DeviceTensor;
}

/** A module's triplets: A [r, in], B [out, r], E [r]. */
export interface Triplets {
  readonly a: Watched;
  readonly b: Watched;
  readonly e: Watched;
}

const compile = (backend: Backend, name: string, trace: (graph: Graph) => void): Executable => {
  const graph = new Graph();
  trace(graph);
  const { workspaceOf, rates } = backend;
  return backend.compile(plan(graph, { workspaceOf, rates, name }));
};

/**
 * Sensitivity I = |w·g| of every weight and its running means, Ī ← β1·Ī + (1−β1)·I and U ← β2·U + (1−β2)·|I − Ī|, with the
 * new Ī. Two programs, run in this order, since the first needs the old Ī and the second overwrites it:
 * I − Ī_new = β1·(I − Ī_old). Both have the input `factor`, which gradients are multiplied by.
 */
export function importancePrograms(
  backend: Backend,
  watched: readonly Watched[],
  { beta1, beta2 }: { beta1: number; beta2: number },
): readonly [Executable, Executable] {
  const sensitivity = (graph: Graph, { tensor, gradient }: Watched): Value => {
    const factor = graph.input("factor", "f32", [1]);
    return unary("abs", binary("mul", mul(graph.use(tensor), graph.use(gradient)), factor));
  };
  const uncertainty = compile(backend, "AdaLoRA uncertainty", (graph) => {
    for (const one of watched) {
      const change = unary("abs", sub(sensitivity(graph, one), graph.use(one.importance)));
      decay(graph, one.uncertainty, beta2, scale(change, (1 - beta2) * beta1));
    }
  });
  const importance = compile(backend, "AdaLoRA importance", (graph) => {
    for (const one of watched) decay(graph, one.importance, beta1, scale(sensitivity(graph, one), 1 - beta1));
  });
  return [uncertainty, importance];
}

/** tensor ← rate·tensor + added, in place. */
function decay(graph: Graph, tensor: DeviceTensor, rate: number, added: Value): void {
  add(scale(graph.use(tensor, { mutable: true }), rate), added);
}

/** Output `i`: scores [r] of the triplets of module i, s_E + mean over `in` of s_A + mean over `out` of s_B, s = Ī·U. */
export function scoreProgram(backend: Backend, modules: readonly Triplets[]): Executable {
  return compile(backend, "AdaLoRA scores", (graph) => {
    const score = ({ importance, uncertainty }: Watched): Value => mul(graph.use(importance), graph.use(uncertainty));
    modules.forEach(({ a, b, e }, i) => {
      const means = add(meanRows(score(a)), columnSum(score(b), { alpha: 1 / b.tensor.shape[0]! }));
      graph.output(String(i), add(score(e), means));
    });
  });
}

/** E ← E where input `i` [r] is 1, and 0 where it is 0. */
export function maskProgram(backend: Backend, modules: readonly Triplets[]): Executable {
  return compile(backend, "AdaLoRA mask", (graph) => {
    modules.forEach(({ e: { tensor } }, i) => {
      const masked = mul(graph.use(tensor, { mutable: true }), graph.input(String(i), "f32", tensor.shape));
      // −0 becomes 0, as PEFT fills it.
      unary("shift", masked, 0);
    });
  });
}

/** Below this a square root's derivative is taken as 0. */
const TINY = 1e-30;

/**
 * weight·mean over all A and B of ‖A·Aᵀ − I‖_F and ‖Bᵀ·B − I‖_F: output `loss`; its gradient, times the input `seed` [1], is
 * added to the gradients. `count` is how many A and B there are, those without rows included. `negated(r)` is −I [r, r].
 */
export function orthogonalityProgram(
  backend: Backend,
  modules: readonly Triplets[],
  { weight, count, negated }: { weight: number; count: number; negated: (r: number) => DeviceTensor },
): Executable {
  return compile(backend, "AdaLoRA orthogonality", (graph) => {
    const seed = graph.input("seed", "f32", [1]);
    const distances = modules.flatMap(({ a, b }) => {
      const minusI = graph.use(negated(a.tensor.shape[0]!));
      const [A, B] = [graph.use(a.tensor), graph.use(b.tensor)];
      const both = [matmul(A, A, { transB: true, acc: minusI }), matmul(B, B, { transA: true, acc: minusI })];
      return both.map((difference) => unary("sqrt", unary("atLeast", sum(unary("square", difference)), TINY)));
    });
    const loss = scale(distances.reduce(add), weight / count);
    graph.output("loss", loss);
    const targets = modules
      .flatMap(({ a, b }) => [a, b])
      .map(({ tensor, gradient }) => ({ value: graph.use(tensor), into: graph.use(gradient, { mutable: true }) }));
    differentiate(graph, loss, targets, seed);
  });
}
