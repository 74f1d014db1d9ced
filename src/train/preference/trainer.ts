import type { TokenizedRow } from "../../data/collate.ts";
import { Dataset, type PreferenceReport, type Row } from "../../data/index.ts";
import type { CausalLM } from "../../models/model.ts";
import { PeftModel } from "../../peft/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import type { TrainingArguments } from "../arguments.ts";
import { type BatchSource, isBatchSource } from "../batches.ts";
import type { LogRow, TrainerCallback } from "../callbacks.ts";
import type { InitialAdapter } from "../initial-adapter.ts";
import type { ComputeLoss, Forward } from "../loss.ts";
import type { RowOrder } from "../tokenized-source.ts";
import { asTrainable } from "../trainable.ts";
import { type EvalSources, type PredictionOutput, Trainer } from "../trainer.ts";
import { type TrainOptions, type TrainOutput, trainOptions } from "../training-run.ts";
import { type PrecomputeOptions, precompute, type Scorable } from "./precompute.ts";
import { type ReferencePlan, traceScorer } from "./reference-plan.ts";
import { type ItemBatches, ItemSource } from "./source.ts";

/** One data set, or several by name. */
export type PreferenceDatasets = Dataset<Row> | Readonly<Record<string, Dataset<Row>>>;

/** What every preference trainer takes beside its settings. */
export interface PreferenceTrainerOptions {
  readonly model: PeftModel | CausalLM;
  readonly tokenizer?: Tokenizer | undefined;
  /** TRL's name for the tokenizer. */
  readonly processingClass?: Tokenizer | undefined;
  readonly trainDataset: Dataset<Row>;
  readonly evalDataset?: PreferenceDatasets | undefined;
  readonly callbacks?: readonly TrainerCallback[] | undefined;
}

/** Settings that every trainer's data and memory depend on. */
interface SharedValues {
  readonly maxLength: number | null;
  readonly activationOffloading: boolean;
  readonly activationMemory: number | null;
  readonly activationHostMemory: number | null;
}

/** What makes one trainer of the base: how rows become items, items batches, and batches a loss. */
export interface PreferencePlan<T extends Scorable> {
  readonly owner: string;
  readonly args: TrainingArguments;
  readonly values: SharedValues;
  readonly tokenize: (data: Dataset<Row>) => { items: T[]; report: PreferenceReport };
  /** An item's sequences, as they count for its length. */
  readonly rowsOf: (item: T) => readonly TokenizedRow[];
  readonly batches: ItemBatches<T>;
  /** Tokens that a sequence may have, of these items. */
  readonly longest: (items: readonly T[]) => number;
  readonly loss: (maxPositions: number) => {
    readonly loss: ComputeLoss;
    readonly reference: ReferencePass<T> | null;
    /** The adapter before training, where that is the reference. */
    readonly initial: InitialAdapter | null;
  };
}

/** How the reference is run over the data beforehand. */
export interface ReferencePass<T extends Scorable>
  extends Pick<PrecomputeOptions<T>, "cacheDir" | "settings" | "numbers"> {
  readonly plan: ReferencePlan & { readonly scorer: NonNullable<ReferencePlan["scorer"]> };
  readonly forward: (ctx: Parameters<Forward>[0], trace: ReturnType<typeof traceScorer>) => ReturnType<Forward>;
  readonly batchSize: { readonly train: number; readonly eval: number };
}

/** The base of the trainers on preferences: data, reference numbers computed beforehand, training and evaluation. */
export class PreferenceTrainer<T extends Scorable> extends Trainer {
  readonly tokenizer: Tokenizer;
  readonly dataReport: PreferenceReport;
  private readonly plan: PreferencePlan<T>;
  private readonly pass: ReferencePass<T> | null;
  private readonly initial: InitialAdapter | null;
  private readonly maxPositions: number;
  private scored = new WeakSet<BatchSource>();

  constructor(options: PreferenceTrainerOptions, plan: PreferencePlan<T>) {
    const { model, trainDataset, evalDataset, callbacks } = options;
    const { owner, args, values } = plan;
    const tokenizer = tokenizerOf(owner, options);
    const { items, report } = plan.tokenize(asDataset(owner, trainDataset));
    const evaluation = evalDataset && evalSources(evalDataset, plan);
    const all = [items, ...sourcesOf(evaluation).map((source) => (source as ItemSource<T>).items)];
    const maxPositions = values.maxLength ?? Math.max(...all.map(plan.longest));
    const { loss, reference, initial } = plan.loss(maxPositions);
    const windows = { size: args.gradientAccumulationSteps, dropLast: args.dataloaderDropLast };
    super({
      model: asTrainable(model, values.activationMemory),
      args,
      train: new ItemSource(items, plan.batches, orderOf(args), windows),
      evaluation,
      callbacks,
      computeLoss: loss,
      maxPositions,
      offload: values.activationOffloading,
      hostBytes: values.activationHostMemory,
    });
    this.tokenizer = tokenizer;
    this.dataReport = report;
    this.plan = plan;
    this.pass = reference;
    this.initial = initial;
    this.maxPositions = maxPositions;
  }

  /** As Trainer's; reference numbers that are to be computed beforehand are, of all data. */
  override async train(options: TrainOptions = {}): Promise<TrainOutput> {
    const checked = trainOptions(options);
    await this.beginReference(checked);
    await this.scoreSources();
    return super.train(checked);
  }

  /** What train() does first: the adapter is copied, where that is the reference. Memory counts the copy from then on. */
  async beginReference(options: TrainOptions = {}): Promise<void> {
    await this.initial?.begin(options, this.args, () => {
      this.runner.dispose();
      this.scored = new WeakSet();
    });
  }

  /** As Trainer's, for rows that are prepared as those for training are. Throws OptionError where no reference is left. */
  override async evaluate(data?: PreferenceDatasets | EvalSources, prefix?: string): Promise<LogRow> {
    await this.initial?.take(() => this.runner.dispose());
    const sources = data && (isSources(data) ? data : evalSources(data, this.plan));
    for (const source of sourcesOf(sources ?? this.options.evaluation)) await this.score(source, "eval");
    return super.evaluate(sources, prefix);
  }

  /** As Trainer's, for rows that are prepared as those for training are: a pair's chosen answers, then its rejected ones. */
  override async predict(data: Dataset<Row> | BatchSource, prefix?: string): Promise<PredictionOutput> {
    await this.initial?.take(() => this.runner.dispose());
    const source = isBatchSource(data) ? data : evalSource(asDataset(this.plan.owner, data), this.plan);
    await this.score(source, "eval");
    return super.predict(source, prefix);
  }

  /**
   * Gives rows numbers without meaning where the reference's are to be computed beforehand, so that their programs can be
   * planned without running it. Training puts the right ones in their place.
   */
  assumeReference(): void {
    const { train } = this.options;
    if (!this.pass || !(train instanceof ItemSource) || this.scored.has(train)) return;
    const items = train.items as T[];
    items.forEach((item, i) => {
      items[i] = { ...item, reference: [0, 0] };
    });
  }

  /** The adapter or model, with the tokenizer beside it. */
  override async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await super.saveModel(dir);
    await this.tokenizer.savePretrained(dir);
  }

  override async saveState(dir: string): Promise<void> {
    await super.saveState(dir);
    await this.initial?.save(dir);
  }

  override dispose(): void {
    super.dispose();
    this.initial?.dispose();
  }

  private async scoreSources(): Promise<void> {
    await this.score(this.options.train, "train");
    for (const source of sourcesOf(this.options.evaluation)) await this.score(source, "eval");
  }

  /** Gives a source's items the reference's numbers, once. */
  private async score(source: BatchSource, purpose: "train" | "eval"): Promise<void> {
    const { pass, plan } = this;
    if (!(source instanceof ItemSource) || this.scored.has(source)) return;
    const longest = plan.longest(source.items);
    if (longest > this.maxPositions) {
      throw new OptionError(`${plan.owner}: rows have up to ${longest} tokens; set maxLength to that or more`);
    }
    if (pass) {
      if (pass.plan.live && this.state.globalStep > 0) {
        const cure = "give the data as evalDataset when the trainer is made, or a refModel";
        throw new OptionError(`${plan.owner}: the reference was the model before training, which is gone: ${cure}`);
      }
      const { scorer } = pass.plan;
      await precompute<T>({
        ...pass,
        lm: this.options.model.lm,
        scorer,
        runner: this.runner,
        source,
        batchSize: pass.batchSize[purpose],
        rowsOf: plan.rowsOf,
        collate: (items) => plan.batches.collate(items, 1),
        forward: (ctx) => pass.forward(ctx, traceScorer(ctx, scorer)),
      });
    }
    this.scored.add(source);
  }
}

/** The tokenizer, checked against the model. Throws OptionError. */
export function tokenizerOf(owner: string, options: PreferenceTrainerOptions): Tokenizer {
  const tokenizer = options.tokenizer ?? options.processingClass;
  if (!tokenizer) throw new OptionError(`${owner}: tokenizer is missing (processingClass, in TRL's terms)`);
  const { vocabSize } = lmOf(options.model).config;
  if (tokenizer.vocabSize > vocabSize) {
    throw new OptionError(
      `the tokenizer has ${tokenizer.vocabSize} tokens but the model only ${vocabSize}: they do not belong together`,
    );
  }
  return tokenizer;
}

export const lmOf = (model: PeftModel | CausalLM): CausalLM => (model instanceof PeftModel ? model.model : model);

/** Whether the loss has to trace the policy once more to be without dropout. Throws OptionError. */
export function tracesWithoutDropout(
  owner: string,
  model: PeftModel | CausalLM,
  { disableDropout }: { readonly disableDropout: boolean },
  args: TrainingArguments,
): boolean {
  const drops = disableDropout && model instanceof PeftModel && model.adapter.config.loraDropout > 0;
  if (drops && args.neftuneNoiseAlpha) {
    throw new OptionError(`${owner}: neftuneNoiseAlpha needs loraDropout 0, or disableDropout: false`);
  }
  return drops;
}

function asDataset(owner: string, data: unknown): Dataset<Row> {
  if (data instanceof Dataset) return data;
  throw new OptionError(`${owner}: data is not a Dataset; make one with Dataset.load(…) or Dataset.fromList(…)`);
}

const orderOf = (args: TrainingArguments): RowOrder => ({
  strategy: args.trainSamplingStrategy,
  seed: args.dataSeed ?? args.seed,
  rowsPerStep: args.perDeviceTrainBatchSize * args.gradientAccumulationSteps,
});

function evalSources<T extends Scorable>(data: PreferenceDatasets, plan: PreferencePlan<T>): EvalSources {
  if (data instanceof Dataset) return evalSource(data, plan);
  return Object.fromEntries(Object.entries(data).map(([name, one]) => [name, evalSource(one, plan)]));
}

function evalSource<T extends Scorable>(data: Dataset<Row>, plan: PreferencePlan<T>): ItemSource<T> {
  return new ItemSource(
    plan.tokenize(asDataset(plan.owner, data)).items,
    plan.batches,
    { strategy: "sequential", seed: 0, rowsPerStep: 1 },
    { size: Number.POSITIVE_INFINITY, dropLast: false },
  );
}

function isSources(data: PreferenceDatasets | EvalSources): data is EvalSources {
  if (data instanceof Dataset) return false;
  return isBatchSource(data) || Object.values(data).every(isBatchSource);
}

function sourcesOf(sources: EvalSources | undefined): BatchSource[] {
  if (!sources) return [];
  return isBatchSource(sources) ? [sources] : Object.values(sources);
}
