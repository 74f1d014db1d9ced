import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Backend, DeviceTensor, Executable } from "../../backends/backend.ts";
import { atomicWriteFile } from "../../formats/atomic.ts";
import { FormatError, show } from "../../formats/errors.ts";
import type { Optimizer, Trainable } from "../../optim/optimizer.ts";
import { allocateRanks, type BudgetSchedule, checkSchedule, type LoraAdapter, planStep } from "../../peft/index.ts";
import { OptionError } from "../../util/options.ts";
import type { LogRow } from "../callbacks.ts";
import type { TrainingMethod } from "../method.ts";
import { readTensors, writeTensors } from "../tensor-files.ts";
import {
  importancePrograms,
  maskProgram,
  orthogonalityProgram,
  scoreProgram,
  type Triplets,
  type Watched,
} from "./programs.ts";
import { type Allocation, allocationsFromJson, rankPlot } from "./report.ts";

const STATE = "adalora_state.safetensors";
const PLOT = "adalora_ranks.svg";

/**
 * AdaLoRA's part of a training, as PEFT's RankAllocator with the steps counted from 0: after each update importance is
 * smoothed and, when the schedule says so, the least important triplets of all modules are taken out of use (their E is
 * 0; while ranks are not final they may come back). A and B are held orthogonal by a term of the loss, once a step.
 *
 * An adapter that has ranks already (loaded from a file, or trained before) keeps them.
 */
export class AdaLoraTraining implements TrainingMethod {
  private readonly adapter: LoraAdapter;
  private readonly optimizer: Optimizer;
  private readonly backend: Backend;
  private readonly modules: Triplets[];
  /** Module paths, as `modules`. */
  private readonly paths: string[];
  /** Its ranks were there before this training. */
  private readonly fixed: boolean;
  private readonly own: DeviceTensor[] = [];
  private readonly identities = new Map<number, DeviceTensor>();
  private readonly programs = new Map<string, readonly Executable[]>();
  /** Null: no allocation. */
  private schedule: BudgetSchedule | null = null;
  private watches = false;
  private allocations: Allocation[] = [];

  constructor(adapter: LoraAdapter, optimizer: Optimizer) {
    this.adapter = adapter;
    this.optimizer = optimizer;
    this.backend = adapter.model.backend;
    this.fixed = adapter.adalora!.ranks !== null;
    const targets = adapter.targets.filter(({ r }) => r > 0);
    this.paths = targets.map(({ path }) => path);
    try {
      this.modules = targets.map((target) => {
        const half = (kind: "A" | "B" | "E"): Watched => {
          const { name } = adapter.tensors.find((tensor) => tensor.target === target && tensor.kind === kind)!;
          return this.watch(optimizer.trainables.find((trainable) => trainable.name === name)!);
        };
        return { a: half("A"), b: half("B"), e: half("E") };
      });
    } catch (error) {
      this.dispose();
      throw error;
    }
    optimizer.watcher = (factor) => this.observe(factor);
  }

  begin(maxSteps: number): void {
    const { adalora, targets } = this.adapter;
    if (this.fixed) return;
    const { settings } = adalora!;
    const totalStep = settings.totalStep ?? maxSteps;
    checkSchedule(settings, totalStep, "AdaLoRA");
    if (totalStep - settings.tfinal > maxSteps) {
      throw new OptionError(
        `AdaLoRA: totalStep ${totalStep} less tfinal ${settings.tfinal} is beyond the training's ${maxSteps} steps, so that ranks would not get down to targetR: leave totalStep out, or train longer`,
      );
    }
    adalora!.totalStep = totalStep;
    const initial = settings.initR * targets.length;
    this.schedule = { ...settings, totalStep, initial, target: settings.targetR * targets.length };
  }

  async beforeUpdate(step: number): Promise<number> {
    this.watches = this.schedule !== null && planStep(step, this.schedule).watches;
    const { orthRegWeight: weight } = this.adapter.adalora!.settings;
    if (weight === 0) return 0;
    const count = 2 * this.adapter.targets.length;
    const [program] = this.program("orthogonality", () => [
      orthogonalityProgram(this.backend, this.modules, { weight, count, negated: (r) => this.negatedIdentity(r) }),
    ]);
    const { loss } = await program!.execute({ seed: Float32Array.of(this.optimizer.lossScaler?.scale ?? 1) });
    return loss![0]!;
  }

  async afterUpdate(step: number): Promise<LogRow | null> {
    const adalora = this.adapter.adalora!;
    if (!this.schedule) {
      await this.mask();
      return null;
    }
    const { budget, keepsRanks } = planStep(step, this.schedule);
    if (keepsRanks) await this.mask();
    if (budget === null) return null;
    const [program] = this.program("scores", () => [scoreProgram(this.backend, this.modules)]);
    const outputs = await program!.execute({});
    const kept = allocateRanks(
      this.paths.map((_, i) => outputs[i]!),
      budget,
    );
    adalora.ranks = new Map(this.paths.map((path, i) => [path, kept[i]!]));
    await this.mask();
    return this.record(step, budget);
  }

  async end(): Promise<void> {
    // What is saved has only the triplets in use: from here on so has the model.
    if (this.adapter.adalora!.ranks) await this.mask();
  }

  async report(outputDir: string): Promise<void> {
    if (this.allocations.length === 0 || !this.schedule) return;
    await mkdir(outputDir, { recursive: true });
    await atomicWriteFile(join(outputDir, PLOT), rankPlot(this.paths, this.allocations, this.schedule));
  }

  async save(folder: string): Promise<void> {
    const { ranks } = this.adapter.adalora!;
    const state = JSON.stringify({ ranks: ranks && [...ranks], allocations: this.allocations });
    await writeTensors(join(folder, STATE), this.tensors(), { state });
  }

  async load(folder: string): Promise<void> {
    const file = join(folder, STATE);
    const metadata = await readTensors(file, this.tensors());
    const { adalora } = this.adapter;
    try {
      const { ranks, allocations } = JSON.parse(metadata.get("state") ?? "") as Record<string, unknown>;
      this.allocations = allocationsFromJson(allocations, this.paths.length);
      adalora!.ranks = ranks === null ? null : new Map(ranks as [string, boolean[]][]);
    } catch (error) {
      const found = show(metadata.get("state"));
      const expected = "ranks and allocations of this training";
      throw new FormatError({ file, field: "metadata state", found, expected, cause: error });
    }
  }

  dispose(): void {
    for (const programs of this.programs.values()) for (const program of programs) program.dispose();
    for (const tensor of [...this.own, ...this.identities.values()]) tensor.dispose();
  }

  /** Importance of the gradients just used. */
  private async observe(factor: number): Promise<void> {
    if (!this.watches) return;
    const watched = this.modules.flatMap(({ a, b, e }) => [a, b, e]);
    const programs = this.program("importance", () =>
      importancePrograms(this.backend, watched, this.adapter.adalora!.settings),
    );
    for (const program of programs) await program.execute({ factor: Float32Array.of(factor) });
  }

  private async mask(): Promise<void> {
    const adalora = this.adapter.adalora!;
    const [program] = this.program("mask", () => [maskProgram(this.backend, this.modules)]);
    const masks = this.paths.map((path, i) => {
      const r = this.modules[i]!.e.tensor.shape[0]!;
      const kept = adalora.ranks?.get(path);
      // A loaded adapter has no more triplets than are in use.
      const whole = !kept || kept.length !== r;
      return [String(i), Float32Array.from({ length: r }, (_, k) => (whole || kept[k] ? 1 : 0))];
    });
    await program!.execute(Object.fromEntries(masks));
  }

  private record(step: number, budget: number): LogRow | null {
    const ranks = this.paths.map((path) => this.adapter.adalora!.ranks!.get(path)!.filter(Boolean).length);
    const before = this.allocations.at(-1)?.ranks;
    if (before && ranks.every((rank, i) => rank === before[i])) return null;
    this.allocations.push({ step, ranks });
    return {
      adalora_budget: budget,
      adalora_rank_mean: ranks.reduce((total, rank) => total + rank, 0) / ranks.length,
      adalora_rank_min: Math.min(...ranks),
      adalora_rank_max: Math.max(...ranks),
    };
  }

  private watch(trainable: Trainable): Watched {
    const { name, tensor } = trainable;
    const create = (suffix: string): DeviceTensor => {
      const made = this.backend.createTensor(`${name}.${suffix}`, "f32", tensor.shape, { role: "optimizer" });
      this.own.push(made);
      return made;
    };
    const gradient = this.optimizer.gradient(trainable);
    return { tensor, gradient, importance: create("exp_avg_ipt"), uncertainty: create("exp_avg_unc") };
  }

  /** All there is to go on from, by name. */
  private tensors(): Map<string, DeviceTensor> {
    const watched = this.modules.flatMap(({ a, b, e }) => [a, b, e]);
    return new Map(
      watched.flatMap(({ tensor, importance, uncertainty }) =>
        [tensor, importance, uncertainty].map((one) => [one.name, one] as const),
      ),
    );
  }

  private negatedIdentity(r: number): DeviceTensor {
    let tensor = this.identities.get(r);
    if (!tensor) {
      tensor = this.backend.createTensor(`minus_identity.${r}`, "f32", [r, r], { role: "constant" });
      const values = Float32Array.from({ length: r * r }, (_, i) => (i % (r + 1) === 0 ? -1 : 0));
      tensor.write(new Uint8Array(values.buffer));
      this.identities.set(r, tensor);
    }
    return tensor;
  }

  private program(name: string, make: () => readonly Executable[]): readonly Executable[] {
    let found = this.programs.get(name);
    if (!found) {
      found = make();
      this.programs.set(name, found);
    }
    return found;
  }
}
