import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { saveModel } from "../models/save.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { argumentsSchema } from "./arguments.ts";
import { sftSchema } from "./sft-config.ts";
import { inFolder, openBackend } from "./tiny-training.test.support.ts";

const GUIDE = readFileSync(new URL("../../docs/training.md", import.meta.url), "utf8");

/** The guide's examples as one program: the first sets up what the others use, each in a scope of its own. */
function program(): string {
  const imports = new Set<string>();
  const blocks = [...GUIDE.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) =>
    code!.replace(/^import \{(.*?)\} from "unsloth";\n/gms, (_, names: string) => {
      for (const name of names.split(",")) imports.add(name.trim());
      return "";
    }),
  );
  assert.ok(blocks.length >= 6, `${blocks.length} examples`);
  const library = new URL(`../index${extname(import.meta.url)}`, import.meta.url).href;
  const [setup, ...rest] = blocks;
  const head = `import { ${[...imports].join(", ")} } from ${JSON.stringify(library)};`;
  return [head, setup!, ...rest.map((code) => `{\n${code}}`), "base.backend.dispose();"].join("\n");
}

test("every example of the guide runs", async () => {
  await inFolder(async (folder) => {
    const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
    const backend = await openBackend();
    const overrides = { vocab_size: tokenizer.vocabSize, num_hidden_layers: 1, hidden_size: 64, intermediate_size: 64 };
    using model = tinyModel(backend, "llama", overrides);
    await saveModel(model, join(folder, "model"));
    await tokenizer.savePretrained(join(folder, "model"));
    const chats = Array.from({ length: 20 }, (_, i) => ({
      messages: [
        { role: "user", content: `${i} and one?` },
        { role: "assistant", content: `${i + 1}` },
      ],
    }));
    writeFileSync(join(folder, "chats.jsonl"), chats.map((row) => `${JSON.stringify(row)}\n`).join(""));
    // The first example's checkpoint is what the last one resumes from.
    const file = join(folder, "examples.mjs");
    writeFileSync(file, program());
    const here = process.cwd();
    const write = process.stderr.write.bind(process.stderr);
    process.chdir(folder);
    process.stderr.write = () => true;
    try {
      await import(pathToFileURL(file).href);
    } finally {
      process.stderr.write = write;
      process.chdir(here);
    }
    assert.ok(existsSync(join(folder, "adapter", "adapter_model.safetensors")));
    assert.ok(existsSync(join(folder, "outputs", "checkpoint-20")));
  });
});

test("the guide names every option", () => {
  const missing = [...Object.keys(argumentsSchema.shape), ...Object.keys(sftSchema.shape)].filter(
    (name) => !GUIDE.includes(`\`${name}\``) && !["fp16", "bf16", "outputDir"].includes(name),
  );
  assert.deepEqual(missing, []);
});
