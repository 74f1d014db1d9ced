import { nearest } from "../../util/nearest.ts";
import { UsageError } from "../exit.ts";
import type { ChatSession } from "./session.ts";

/** Where a chat takes place. */
export interface ChatTerminal {
  /** What is typed, a line at a time. */
  readonly lines: AsyncIterable<string>;
  /** Invite the next line. */
  prompt(): void;
  /** The model's words. */
  write(text: string): void;
  /** Words about the chat. */
  note(line: string): void;
  /** Calls `stop` when the user asks for the answer at hand to stop; returns what ends that. */
  onStop(stop: () => void): () => void;
}

const COMMANDS: Readonly<Record<string, string>> = {
  "/help": "this list",
  "/reset": "forget the conversation",
  "/system TEXT": "set the system message (alone: show it), and start anew",
  "/exit": "leave (also Ctrl-D)",
};
const NAMES = ["/help", "/reset", "/system", "/exit", "/quit"];

/** Answers line after line until the lines end or /exit. */
export async function chatLoop(session: ChatSession, terminal: ChatTerminal): Promise<void> {
  terminal.prompt();
  for await (const line of terminal.lines) {
    const text = line.trim();
    if (text.startsWith("/") && !text.startsWith("//")) {
      if (runCommand(text, session, terminal) === "exit") return;
    } else if (text !== "") await answer(text.startsWith("//") ? text.slice(1) : text, session, terminal);
    terminal.prompt();
  }
}

async function answer(text: string, session: ChatSession, terminal: ChatTerminal): Promise<void> {
  const controller = new AbortController();
  const release = terminal.onStop(() => controller.abort());
  try {
    const reply = await session.reply(text, (piece) => terminal.write(piece), controller.signal);
    terminal.write("\n");
    if (reply.stopped) terminal.note("(stopped)");
    if (reply.forgotten > 0) terminal.note(`(the first ${reply.forgotten} messages no longer fit and were left out)`);
  } catch (error) {
    // The next message may be a better one.
    if (!(error instanceof UsageError)) throw error;
    terminal.note(`(${error.message})`);
  } finally {
    release();
  }
}

function runCommand(text: string, session: ChatSession, terminal: ChatTerminal): "exit" | "go on" {
  const [, name, rest] = /^(\S+)\s*(.*)$/.exec(text)!;
  switch (name) {
    case "/exit":
    case "/quit":
      return "exit";
    case "/reset":
      session.reset();
      terminal.note("(forgotten)");
      return "go on";
    case "/system":
      if (rest !== "") {
        session.system = rest;
        session.reset();
      }
      terminal.note(session.system === undefined ? "(no system message)" : `(system: ${session.system})`);
      return "go on";
    case "/help":
      for (const [command, what] of Object.entries(COMMANDS)) terminal.note(`  ${command.padEnd(14)} ${what}`);
      return "go on";
    default: {
      const close = nearest(name!, NAMES);
      terminal.note(`(no command ${name}${close ? `; did you mean ${close}?` : "; /help lists them"})`);
      return "go on";
    }
  }
}
