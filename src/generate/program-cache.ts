import type { Executable } from "../backends/backend.ts";

/** Compiled programs by key; the least recently used goes when there are more than `limit`. */
export class ProgramCache {
  private readonly programs = new Map<string, Executable>();
  private readonly limit: number;

  constructor(limit: number) {
    this.limit = limit;
  }

  /** The program of that key, compiled if it is not there. */
  get(key: string, compile: () => Executable): Executable {
    const program = this.programs.get(key) ?? compile();
    this.programs.delete(key);
    this.programs.set(key, program);
    if (this.programs.size > this.limit) {
      const [oldest, dropped] = this.programs.entries().next().value!;
      this.programs.delete(oldest);
      dropped.dispose();
    }
    return program;
  }

  clear(): void {
    for (const program of this.programs.values()) program.dispose();
    this.programs.clear();
  }
}

/** Programs are compiled for at least this many tokens. */
const SMALLEST = 32;

/** The size a program for `count` tokens is compiled for: few different ones, at most an eighth of it (or 31) unused. */
export function bucket(count: number): number {
  const step = Math.max(SMALLEST, 2 ** (Math.floor(Math.log2(Math.max(1, count))) - 3));
  return Math.ceil(count / step) * step;
}
