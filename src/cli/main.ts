#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { Command } from "commander";
import { generateCommand } from "./generate.ts";
import { trainCommand } from "./train.ts";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

const program = new Command("unsloth")
  .description("Fine-tune open LLMs with LoRA and QLoRA")
  .version(version)
  .showSuggestionAfterError()
  .addCommand(trainCommand())
  .addCommand(generateCommand());

try {
  await program.parseAsync();
} catch (error) {
  // The message is made for people; the stack is for us.
  const text = error instanceof Error ? (process.env.UNSLOTH_DEBUG ? error.stack : error.message) : String(error);
  process.stderr.write(`unsloth: ${text}\n`);
  process.exitCode = 1;
}
