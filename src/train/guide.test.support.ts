/** Runs the examples of a guide as a user would: as one module, in a folder that has a small model and its tokenizer. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { saveModel } from "../models/save.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { inFolder, openBackend } from "./tiny-training.test.support.ts";

/** The guide's examples as one program: the first sets up what the others use, each in a scope of its own. */
function program(guide: string, examples: number): string {
  const imports = new Set<string>();
  const blocks = [...guide.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) =>
    code!.replace(/^import \{(.*?)\} from "unsloth";\n/gms, (_, names: string) => {
      for (const name of names.split(",")) imports.add(name.trim());
      return "";
    }),
  );
  assert.ok(blocks.length >= examples, `${blocks.length} examples`);
  const library = new URL(`../index${extname(import.meta.url)}`, import.meta.url).href;
  const [setup, ...rest] = blocks;
  const head = `import { ${[...imports].join(", ")} } from ${JSON.stringify(library)};`;
  return [head, setup!, ...rest.map((code) => `{\n${code}}`), "base.backend.dispose();"].join("\n");
}

/** Runs a guide's examples in a new folder with "model" in it, without their output, then `check`. */
export async function runGuide(
  guide: string,
  { examples, prepare = () => undefined }: { examples: number; prepare?: (folder: string) => void },
  check: (folder: string) => void = () => undefined,
): Promise<void> {
  await inFolder(async (folder) => {
    const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
    const backend = await openBackend();
    const overrides = { vocab_size: tokenizer.vocabSize, num_hidden_layers: 1, hidden_size: 64, intermediate_size: 64 };
    using model = tinyModel(backend, "llama", overrides);
    await saveModel(model, join(folder, "model"));
    await tokenizer.savePretrained(join(folder, "model"));
    prepare(folder);
    const file = join(folder, "examples.mjs");
    writeFileSync(file, program(guide, examples));
    const here = process.cwd();
    const write = process.stderr.write.bind(process.stderr);
    const { log } = console;
    process.chdir(folder);
    process.stderr.write = () => true;
    console.log = () => undefined;
    try {
      await import(pathToFileURL(file).href);
    } finally {
      process.stderr.write = write;
      console.log = log;
      process.chdir(here);
    }
    check(folder);
  });
}
