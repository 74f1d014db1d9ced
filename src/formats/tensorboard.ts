import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { encodeEvent, type SummaryValue, versionEvent } from "./tensorboard-events.ts";
import { tfRecord } from "./tensorboard-records.ts";

/** Files of one process, numbered, as TensorBoard's own writer does: two started in one second differ. */
let files = 0;

/**
 * An event file that TensorBoard shows: `events.out.tfevents.<seconds>.<host>.<process>.<number>` in a folder, which is
 * made if need be. Every event is in the file when the call returns. Throws the file system's errors.
 */
export class TensorBoardWriter {
  readonly path: string;
  private readonly now: () => number;
  private fd: number | null;

  /** @param now seconds since 1970, for the events' times */
  constructor(folder: string, now: () => number = () => Date.now() / 1000) {
    mkdirSync(folder, { recursive: true });
    this.now = now;
    const seconds = String(Math.floor(now())).padStart(10, "0");
    this.path = join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${files++}`);
    this.fd = openSync(this.path, "a");
    this.write(versionEvent(now(), "unsloth"));
  }

  /** Points of scalar charts at a step; NaN and infinities are kept. */
  scalars(values: Readonly<Record<string, number>>, step: number): void {
    // One event a scalar, as SummaryWriter.add_scalar writes.
    for (const [tag, scalar] of Object.entries(values)) this.event({ tag, scalar }, step);
  }

  /** A text (Markdown) of the text tab. */
  text(tag: string, text: string, step = 0): void {
    this.event({ tag, text }, step);
  }

  close(): void {
    if (this.fd !== null) closeSync(this.fd);
    this.fd = null;
  }

  private event(value: SummaryValue, step: number): void {
    this.write(encodeEvent({ wallTime: this.now(), step, summary: [value] }));
  }

  private write(data: Uint8Array): void {
    if (this.fd === null) throw new Error(`${this.path} has been closed`);
    const record = tfRecord(data);
    for (let done = 0; done < record.length; ) done += writeSync(this.fd, record, done);
  }
}
