import { FormatError } from "../../formats/errors.ts";

/** Numbers by name that come now and then between two logs: their means are logged (TRL's `_metrics`). */
export class MetricLists {
  private lists = new Map<string, number[]>();

  add(name: string, value: number): void {
    const list = this.lists.get(name);
    if (list) list.push(value);
    else this.lists.set(name, [value]);
  }

  addAll(metrics: Readonly<Record<string, number>>): void {
    for (const [name, value] of Object.entries(metrics)) this.add(name, value);
  }

  /** Means since the last call, NaN left out; a name whose numbers were all NaN is left out too. */
  take(): Record<string, number> {
    const means: Record<string, number> = {};
    for (const [name, list] of this.lists) {
      const valid = list.filter((value) => !Number.isNaN(value));
      if (valid.length > 0) means[name] = valid.reduce((sum, value) => sum + value, 0) / valid.length;
    }
    this.lists.clear();
    return means;
  }

  /** As JSON; NaN becomes null. */
  state(): Record<string, (number | null)[]> {
    return Object.fromEntries(
      [...this.lists].map(([name, list]) => [name, list.map((x) => (Number.isNaN(x) ? null : x))]),
    );
  }

  /** Go on from `state`. Throws FormatError. */
  restore(state: unknown, file: string): void {
    const lists = Object.entries((state ?? {}) as Record<string, unknown>);
    this.lists = new Map(
      lists.map(([name, list]) => {
        if (!Array.isArray(list)) {
          throw new FormatError({ file, field: `metrics.${name}`, found: typeof list, expected: "a list of numbers" });
        }
        return [name, list.map((x: unknown) => (x === null ? Number.NaN : Number(x)))];
      }),
    );
  }
}
