#!/usr/bin/env node
import { run } from "./program.ts";
import { note } from "./terminal.ts";

// A reader that has seen enough (`| head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));

// This library's warnings are for the user, not about the code: without Node.js's advice on tracing them.
const [printWarning] = process.listeners("warning");
process.removeAllListeners("warning");
process.on("warning", (warning) => {
  if (warning.name === "UnslothWarning") note(`note: ${warning.message}`);
  else printWarning?.(warning);
});

process.exitCode = await run(process.argv.slice(2));
