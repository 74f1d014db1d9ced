import { createInterface } from "node:readline";
import { samplingSchema } from "../../generate/sampling.ts";
import { CliCommand } from "../command.ts";
import { addSchemaFlags, schemaValues } from "../flags.ts";
import { addModelFlags, loadFromFlags } from "../loading.ts";
import { note, write } from "../terminal.ts";
import { type ChatTerminal, chatLoop } from "./loop.ts";
import { ChatSession } from "./session.ts";

/** `unsloth chat`: a conversation in the terminal. */
export function chatCommand(): CliCommand {
  const command = new CliCommand("chat")
    .description("talk with a model")
    .option("--system <text>", "system message")
    .addHelpText(
      "after",
      `
In the chat: /reset forgets the conversation, /system TEXT sets the system message, /exit leaves; Ctrl-C stops an answer.

Examples:
  unsloth chat --model Qwen/Qwen2.5-0.5B-Instruct
  unsloth chat --adapter outputs --do-sample --temperature 0.7
  echo "Why is the sky blue?" | unsloth chat --model PATH`,
    ) as CliCommand;
  addModelFlags(command);
  command.optionsGroup("Sampling:");
  addSchemaFlags(command, samplingSchema);
  return command.action(runChat) as CliCommand;
}

async function runChat(flags: Readonly<Record<string, unknown>> & { readonly system?: string }): Promise<void> {
  const sampling = schemaValues(samplingSchema, flags);
  using loaded = await loadFromFlags(flags);
  const { lm, tokenizer, name } = loaded;
  using session = new ChatSession({ lm, tokenizer, sampling, system: flags.system });
  if (process.stdin.isTTY) note(`${name} on ${lm.backend.description}; /help lists the commands`);
  const { terminal, close } = openTerminal();
  try {
    await chatLoop(session, terminal);
  } finally {
    close();
  }
}

/** Standard input and output; without a terminal there are no prompts, and a line that is read is a message. */
function openTerminal(): { terminal: ChatTerminal; close: () => void } {
  const isTerminal = Boolean(process.stdin.isTTY && process.stdout.isTTY);
  const reader = createInterface({
    input: process.stdin,
    ...(isTerminal && { output: process.stdout }),
    prompt: "> ",
    terminal: isTerminal,
  });
  let stop: (() => void) | null = null;
  const interrupted = (): void => {
    if (stop) stop();
    else if (isTerminal) reader.close();
    else process.exit(130);
  };
  // In a terminal Ctrl-C comes as a key to the reader; elsewhere as a signal to the process.
  if (isTerminal) reader.on("SIGINT", interrupted);
  else process.on("SIGINT", interrupted);
  const terminal: ChatTerminal = {
    lines: reader,
    prompt: () => {
      if (isTerminal) reader.prompt();
    },
    write,
    note,
    onStop(wanted) {
      stop = wanted;
      return () => {
        stop = null;
      };
    },
  };
  const close = (): void => {
    process.off("SIGINT", interrupted);
    reader.close();
  };
  return { terminal, close };
}
