/** Passes text on until a stop string appears in it; holds back what may turn out to be the beginning of one. */
export class StopDetector {
  /** Everything passed on so far. */
  text = "";
  private readonly stops: readonly string[];
  private readonly emit: (text: string) => void;
  private held = "";

  constructor(stops: readonly string[], emit: (text: string) => void) {
    this.stops = stops;
    this.emit = emit;
  }

  /** Add text; true when a stop string has come up. It and what follows are dropped. */
  push(text: string): boolean {
    this.held += text;
    const at = this.stops.map((stop) => this.held.indexOf(stop)).filter((index) => index >= 0);
    if (at.length > 0) {
      this.pass(Math.min(...at));
      this.held = "";
      return true;
    }
    this.pass(this.held.length - this.partial());
    return false;
  }

  /** The end: nothing held back can become a stop string any more. */
  flush(): void {
    this.pass(this.held.length);
  }

  private pass(length: number): void {
    if (length === 0) return;
    const text = this.held.slice(0, length);
    this.held = this.held.slice(length);
    this.text += text;
    this.emit(text);
  }

  /** Length of the longest end of what is held that begins a stop string. */
  private partial(): number {
    let longest = 0;
    for (const stop of this.stops) {
      for (let n = Math.min(stop.length - 1, this.held.length); n > longest; n--) {
        if (this.held.endsWith(stop.slice(0, n))) longest = n;
      }
    }
    return longest;
  }
}
