#!/usr/bin/env node
import { errorText, exitCodeOf } from "./exit.ts";
import { createProgram } from "./program.ts";

// A reader that has seen enough (`| head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));

try {
  await createProgram().parseAsync();
} catch (error) {
  const text = errorText(error, Boolean(process.env.UNSLOTH_DEBUG));
  if (text !== null) process.stderr.write(text);
  process.exitCode = exitCodeOf(error);
}
