import { FormatError, show } from "../formats/errors.ts";
import { OptionError } from "../util/options.ts";
import type { AdaLoraSettings, RankPattern } from "./adalora-config.ts";
import type { LoraTarget, Resolution } from "./targets.ts";

/** Added to the rank that an update is divided by (PEFT). */
const RANK_EPSILON = 1e-5;
const SUFFIX = ".lora_E";

/** What an adapter has of AdaLoRA: its settings, and the ranks allocated so far. */
export class AdaLora {
  readonly settings: AdaLoraSettings;
  /** By module path: which of its triplets are in use, [initR]; null before the first allocation. */
  ranks: ReadonlyMap<string, readonly boolean[]> | null;
  /** Steps that the trainer makes, where settings do not say. */
  totalStep: number | null;

  constructor(settings: AdaLoraSettings, ranks: ReadonlyMap<string, readonly boolean[]> | null = null) {
    this.settings = settings;
    this.ranks = ranks;
    this.totalStep = settings.totalStep;
  }

  /** total_step as a file has it: PEFT does not load a configuration without one that allows for an allocation. */
  get totalStepForFile(): number {
    return this.totalStep ?? this.settings.tinit + this.settings.tfinal + 1;
  }

  /** rank_pattern as a file has it. */
  rankPattern(): RankPattern | null {
    return this.ranks && Object.fromEntries([...this.ranks].map(([path, kept]) => [`${path}${SUFFIX}`, kept]));
  }

  /** Indices of a module's triplets that are in use; null: all. */
  kept(path: string): number[] | null {
    const ranks = this.ranks?.get(path);
    if (!ranks || ranks.every(Boolean)) return null;
    return ranks.flatMap((used, i) => (used ? [i] : []));
  }
}

/**
 * The targets of an AdaLoRA adapter: their scale is alpha / (initR + 1e-5) whatever their rank, and in a saved adapter
 * their ranks are what its pattern says. Throws OptionError for embeddings, which PEFT's AdaLoRA cannot update.
 */
export function adaLoraTargets(resolution: Resolution, { settings, ranks }: AdaLora, owner: string): Resolution {
  const { initR } = settings;
  const targets = resolution.targets.map((target): LoraTarget => {
    if (target.kind === "embedding") {
      throw new OptionError(`${owner}: AdaLoRA updates linear modules only: leave ${target.path} out of targetModules`);
    }
    const alpha = target.alpha > 0 ? target.alpha : initR;
    const kept = ranks?.get(target.path);
    const r = kept ? kept.filter(Boolean).length : initR;
    return { ...target, r, scale: alpha / (initR + RANK_EPSILON) };
  });
  return { ...resolution, targets };
}

/**
 * A file's rank_pattern by module path. Throws FormatError for a name that is no targeted module, or a list that has not
 * init_r entries.
 */
export function ranksFromPattern(
  pattern: RankPattern | null,
  { targets }: Resolution,
  { initR }: AdaLoraSettings,
  file: string,
): Map<string, readonly boolean[]> | null {
  if (!pattern) return null;
  const paths = new Set(targets.map(({ path }) => path));
  const ranks = new Map<string, readonly boolean[]>();
  for (const [name, kept] of Object.entries(pattern)) {
    const field = `rank_pattern ${show(name)}`;
    // PEFT leaves the adapter's name at the end until the configuration has been saved once.
    const path = name.split(SUFFIX)[0]!;
    if (!paths.has(path)) {
      throw new FormatError({
        file,
        field,
        found: "no targeted module",
        expected: `names such as ${first(paths)}${SUFFIX}`,
      });
    }
    if (kept.length !== initR) {
      throw new FormatError({ file, field, found: `${kept.length} entries`, expected: `${initR}, which is init_r` });
    }
    ranks.set(path, kept);
  }
  return ranks;
}

const first = (names: ReadonlySet<string>): string => names.values().next().value!;
