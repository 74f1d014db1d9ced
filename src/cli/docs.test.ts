import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Command } from "commander";
import { TrainingArguments } from "../train/arguments.ts";
import { CHECKS } from "./doctor/report.ts";
import { HELP } from "./help-texts.ts";
import { createProgram } from "./program.ts";
import { readConfigFile } from "./settings/config-file.ts";
import { givenSettings, TRAIN_TABLE, trainSettings } from "./settings/train-settings.ts";
import { sweepSpec } from "./sweep/spec.ts";
import { redirect } from "./terminal.ts";

const GUIDE = readFileSync(new URL("../../docs/cli.md", import.meta.url), "utf8");
const blocks = (language: string): string[] =>
  [...GUIDE.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, "gms"))].map(([, text]) => text!);

/** Words of a shell's command line, up to a pipe or redirection. */
function words(line: string): string[] {
  const all = [...line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
  const end = all.findIndex((word) => /^[<>|]$/.test(word));
  return end < 0 ? all : all.slice(0, end);
}

/** The commands that a program's own parser sends these words to, none of them run. */
async function parse(args: readonly string[]): Promise<Command[]> {
  const program = createProgram();
  const reached: Command[] = [];
  const stub = (command: Command): void => {
    for (const inner of command.commands) stub(inner);
    const isGroup = command.commands.length > 0 && command.registeredArguments.length === 0;
    if (!isGroup) command.action(() => void reached.push(command));
  };
  stub(program);
  redirect({ out: () => undefined, err: (text) => assert.match(args.join(" "), /--help/, text) });
  try {
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    if (!args.includes("--help")) throw error;
  } finally {
    redirect();
  }
  return reached;
}

test("every command line of the guide is one that the program takes", async () => {
  const lines = blocks("sh").flatMap((block) => block.trim().split("\n"));
  assert.ok(lines.length > 25, `${lines.length} lines`);
  const used = new Set<string>();
  for (const line of lines) {
    const [, command] = /(?:^|\| )(?:npx )?unsloth ?(.*)$/.exec(line) ?? [];
    assert.notEqual(command, undefined, line);
    const args = words(command!);
    const reached = await parse(args);
    assert.equal(reached.length, args.includes("--help") ? 0 : 1, line);
    for (const { name, parent } of reached.map((one) => ({ name: one.name(), parent: one.parent?.name() }))) {
      used.add(parent === "unsloth" ? name : parent!);
    }
  }
  const missing = createProgram()
    .commands.map((command) => command.name())
    .filter((name) => !used.has(name));
  assert.deepEqual(missing, [], "commands without an example");
});

test("command lines of the other guides are taken, and their files are there", async () => {
  for (const name of ["preference", "reward", "rl"]) {
    const guide = readFileSync(new URL(`../../docs/${name}.md`, import.meta.url), "utf8");
    const lines = [...guide.matchAll(/^```sh\n(.*?)^```/gms)].flatMap(([, text]) => text!.trim().split("\n"));
    assert.ok(lines.length > 0, name);
    for (const line of lines) {
      const args = words(/^npx unsloth (.*)$/.exec(line)![1]!);
      assert.equal((await parse(args)).length, 1, line);
      const file = args.find((word) => word.endsWith(".yaml"))!;
      assert.ok(existsSync(new URL(`../../${file}`, import.meta.url)), line);
    }
  }
});

test("every configuration of the guide is valid", () => {
  const folder = mkdtempSync(join(tmpdir(), "unsloth-docs-"));
  const file = join(folder, "config.yaml");
  try {
    assert.equal(blocks("yaml").length, 4);
    for (const yaml of blocks("yaml")) {
      writeFileSync(file, yaml);
      const entries = readConfigFile(file, TRAIN_TABLE.isSection);
      const sweep = entries.find(({ key }) => key === "sweep");
      if (sweep) {
        assert.ok(sweepSpec(sweep.value, sweep.where, []).runs.length > 1);
        writeFileSync(file, yaml.slice(0, yaml.indexOf("sweep:")));
      }
      const { args, model, data } = trainSettings(givenSettings(file, {}));
      assert.ok(model.model !== null && data.data !== null);
      new TrainingArguments(args);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("options and defaults of the guide's table are the program's", () => {
  const table = [...GUIDE.matchAll(/^\| (`[^|]+`) \|([^|]*)\|/gm)].flatMap(([, names, shown]) =>
    [...names!.matchAll(/`(\w+)`/g)].map(([, name]) => [name!, shown!.replaceAll("`", "").trim()] as const),
  );
  assert.ok(table.length > 15);
  const { args } = trainSettings(new Map());
  for (const [name, shown] of table) {
    const { name: camel } = TRAIN_TABLE.fromName(name, valueFor(name), "guide");
    if (camel in args) assert.equal(Number(shown), args[camel], name);
  }
  assert.equal(args.outputDir, "outputs");
});

/** Some value that the option takes. */
function valueFor(name: string): unknown {
  const tried = ["a", 1, true, "float32"];
  return tried.find((value) => {
    try {
      TRAIN_TABLE.fromName(name, value, "guide");
      return true;
    } catch {
      return false;
    }
  });
}

test("the guide names every check of the installation", () => {
  for (const name of CHECKS) assert.match(GUIDE, new RegExp(`\`${name}\``), name);
});

test("help texts are of options that exist", () => {
  const flags = createProgram().commands.flatMap((command) => command.options.map((option) => option.long));
  const kebab = (name: string): string => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  for (const name of Object.keys(HELP)) assert.ok(flags.includes(kebab(name)), name);
});
