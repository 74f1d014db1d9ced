/** Processes that tests start in order to stop them. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";

/** Whether this runs from the built files, or from the source through tsx, where a process takes seconds to load. */
export const BUILT = import.meta.url.endsWith(".js");

interface Told {
  readonly kind: string;
}

/** A process of a support file beside this one, which reports "ready" when it has loaded and then waits for its order. */
export class Child<Order, Report extends Told> {
  readonly process: ChildProcess;
  readonly reports: Report[] = [];
  readonly exit: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  private wake = (): void => undefined;

  constructor(file: string) {
    const path = fileURLToPath(new URL(`./${file}.test.support.${BUILT ? "js" : "ts"}`, import.meta.url));
    this.process = fork(path, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.process.on("message", (message: Report) => {
      this.reports.push(message);
      this.wake();
    });
    this.exit = new Promise((resolve) => {
      this.process.on("exit", (code, signal) => {
        resolve({ code, signal });
        this.wake();
      });
    });
  }

  /** The first report that fits, or that says "failed". */
  async until(fits: (report: Report) => boolean): Promise<Report> {
    for (;;) {
      const found = this.reports.find((report) => report.kind === "failed" || fits(report));
      if (found) return found;
      if (this.process.exitCode !== null || this.process.signalCode !== null) {
        throw new Error(`the process ended too early: ${JSON.stringify(this.reports)}`);
      }
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  async order(order: Order): Promise<void> {
    await this.until(({ kind }) => kind === "ready");
    this.process.send(order as object);
  }
}
