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

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  note(`note: this is Node.js ${process.versions.node}; 20.19 or newer is needed, older ones are not tested`);
}

process.exitCode = await run(process.argv.slice(2));
