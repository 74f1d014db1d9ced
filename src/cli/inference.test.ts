import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { FakeHub, TOKEN, temporaryFolder } from "../hub/fake-hub.test.support.ts";
import { FakeUploads } from "../hub/fake-uploads.test.support.ts";
import { type ChatTerminal, chatLoop } from "./chat/loop.ts";
import { ChatSession } from "./chat/session.ts";
import { here, makeWorkplace, type Workplace } from "./cli.test.support.ts";
import { isMatch, questionOf } from "./eval/exact-match.ts";
import { type LoadedModel, loadFromFlags } from "./loading.ts";

let place: Workplace;
let adapter: string;
let loaded: LoadedModel;
before(async () => {
  place = await makeWorkplace();
  adapter = join(place.folder, "adapter");
  const args = ["--max-steps", "3", "--learning-rate", "5e-2", "--log-level", "error", "--load-in-4bit", "false"];
  const trained = await here("train", "--model", place.model, "--data", place.train, "--output", adapter, ...args);
  assert.equal(trained.code, 0, trained.stderr);
  loaded = await loadFromFlags({ model: place.model, threads: "1" });
});
after(() => {
  loaded[Symbol.dispose]();
  place[Symbol.dispose]();
});

const ANSWER = ["--prompt", "1+1", "--max-new-tokens", "6"];

test("merge: the merged model answers as model and adapter do, and as the adapter alone, which names its base", async () => {
  const merged = join(place.folder, "merged");
  const done = await here("merge", "--model", place.model, "--adapter", adapter, "--output", merged);
  assert.equal(done.code, 0, done.stderr);
  assert.equal(done.stdout, `${merged}\n`);
  const loss = async (...model: string[]) =>
    JSON.parse((await here("eval", ...model, "--data", place.test, "--json", "--threads", "1")).stdout).loss as number;
  const [base, both, alone, one] = [
    await loss("--model", place.model),
    await loss("--model", place.model, "--adapter", adapter),
    await loss("--adapter", adapter),
    await loss("--model", merged),
  ];
  assert.equal(both, alone);
  assert.ok(Math.abs(one - both) < 1e-4, `${one} ${both}`);
  assert.ok(Math.abs(base - both) > 1e-2, "training changed the model");
  const own = await here("merge", "--model", place.model, "--adapter", adapter, "--output", place.model);
  assert.equal(own.code, 2);
  assert.match(own.stderr, /is the base model's own folder/);
  assert.match((await here("merge", "--model", place.model, "--output", merged)).stderr, /is a model, not an adapter/);
});

test("generate: text as it comes, or JSON; the same from the same seed", async () => {
  const text = await here("generate", "--adapter", adapter, ...ANSWER);
  const json = await here("generate", "--model", place.model, "--adapter", adapter, ...ANSWER, "--json");
  const { text: answer, tokens, promptTokens } = JSON.parse(json.stdout);
  assert.equal(text.stdout, `${answer}\n`);
  assert.ok(tokens <= 6 && promptTokens > 0);
  const drawn = () =>
    here("generate", "--adapter", adapter, ...ANSWER, "--do-sample", "--seed", "5", "--temperature", "3");
  assert.equal((await drawn()).stdout, (await drawn()).stdout);
});

test("eval: a perfect answer is one; the pattern says what counts", async () => {
  assert.equal(isMatch(" 7 ", "7"), true);
  assert.equal(isMatch("it is 3, no: 7", "so 7", /\d+/), true);
  assert.equal(isMatch("7, no: 3", "so 7", /\d+/), false);
  assert.equal(isMatch("answer: 7!", "x answer: 7", /answer: (\d+)/), true);
  assert.equal(isMatch("none", "none", /\d+/), false, "an expected answer without a match matches nothing");
  const { tokenizer } = loaded;
  const row = {
    messages: [
      { role: "user", content: "a" },
      { role: "assistant", content: "b" },
    ],
  };
  const question = questionOf({ row, where: "row 0" }, tokenizer);
  const prompt = tokenizer.decode(question.prompt);
  assert.match(prompt, /<\|im_start\|>user\na<\|im_end\|>\n<\|im_start\|>assistant\n$/);
  assert.deepEqual([question.asked, question.expected], ["a", "b"]);
  assert.throws(
    () => questionOf({ row: { text: "t" }, where: "x.jsonl:3" }, tokenizer),
    /x\.jsonl:3: row: found plain text/,
  );
  const exact = ["--exact-match", "--max-new-tokens", "4", "--show", "1", "--limit", "2"];
  const { code, stdout, stderr } = await here("eval", "--adapter", adapter, "--data", place.test, ...exact);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /loss +\d[\s\S]*exact match +\d+\.\d\d% \(\d of 2\)/);
  assert.equal((await here("eval", "--adapter", adapter, "--data", place.test, "--answer-pattern", "(")).code, 2);
});

/** A terminal that types these lines. */
function typing(...lines: string[]) {
  const seen = { written: "", notes: [] as string[] };
  let stop: (() => void) | null = null;
  const terminal: ChatTerminal = {
    lines: (async function* () {
      yield* lines;
    })(),
    prompt: () => undefined,
    write: (text) => {
      seen.written += text;
    },
    note: (line) => void seen.notes.push(line),
    onStop(wanted) {
      stop = wanted;
      return () => {
        stop = null;
      };
    },
  };
  return { seen, terminal, interrupt: () => stop?.() };
}

const sessionOf = (maxNewTokens: number, system?: string) =>
  new ChatSession({ lm: loaded.lm, tokenizer: loaded.tokenizer, sampling: { maxNewTokens }, system });

test("chat: history, commands, /exit", async () => {
  const session = sessionOf(3);
  const { seen, terminal } = typing("hi", "", "//x", "/system be kind", "/rest", "again", "/exit", "never");
  await chatLoop(session, terminal);
  assert.equal(session.system, "be kind");
  assert.deepEqual(
    session.history.map(({ role, content }) => [role, role === "user" ? content : ""]),
    [
      ["user", "again"],
      ["assistant", ""],
    ],
    "a new system message starts anew",
  );
  assert.ok(seen.notes.includes("(no command /rest; did you mean /reset?)"));
  assert.equal(seen.written.match(/\n/g)!.length >= 3, true, "three answers");
});

test("chat: Ctrl-C stops the answer and keeps what there was; the chat goes on", async () => {
  const session = sessionOf(200);
  const { seen, terminal, interrupt } = typing("hi", "/exit");
  const write = terminal.write;
  let pieces = 0;
  await chatLoop(session, {
    ...terminal,
    write: (text) => {
      write(text);
      if (++pieces === 2) interrupt();
    },
  });
  assert.ok(seen.notes.includes("(stopped)"));
  assert.equal(session.history.length, 2);
  assert.ok(pieces < 10, `${pieces} pieces`);
});

test("chat: the oldest messages go when the model's positions run out; one message too long is said", async () => {
  const session = sessionOf(2);
  for (let turn = 0; turn < 5; turn++) await session.reply("word ".repeat(10), () => undefined);
  const { forgotten } = await session.reply("word ".repeat(10), () => undefined);
  assert.ok(forgotten >= 2 && forgotten % 2 === 0, `${forgotten}`);
  const { seen, terminal } = typing("word ".repeat(300), "hi", "/exit");
  const fresh = sessionOf(2);
  await chatLoop(fresh, terminal);
  assert.match(seen.notes.join(), /the message has \d+ tokens; the model takes 256/);
  assert.equal(fresh.history.length, 2, "only the message that was answered");
});

/** A folder's files; what is in folders below it is left out. */
function filesOf(folder: string): Record<string, Buffer> {
  const entries = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(entries.map(({ name }) => [name, readFileSync(join(folder, name))]));
}

test("hub: models by id, an adapter whose base is one, and download", async () => {
  const hub = await FakeHub.start();
  const cache = temporaryFolder();
  hub.add("org/tiny", filesOf(place.model));
  const config = JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8"));
  hub.add("org/adapter", {
    ...filesOf(adapter),
    "adapter_config.json": Buffer.from(JSON.stringify({ ...config, base_model_name_or_path: "org/tiny" })),
  });
  Object.assign(process.env, { HF_HOME: cache, HF_ENDPOINT: hub.endpoint, HF_TOKEN: TOKEN });
  try {
    const local = await here("generate", "--adapter", adapter, ...ANSWER);
    const remote = await here("generate", "--adapter", "org/adapter", ...ANSWER);
    assert.equal(remote.code, 0, remote.stderr);
    assert.equal(remote.stdout, local.stdout);
    const { code, stdout } = await here("hub", "download", "org/tiny");
    assert.equal(code, 0);
    assert.ok(existsSync(join(stdout.trim(), "model.safetensors")));
    const trained = join(place.folder, "from-hub");
    const args = ["--data", place.train, "--max-steps", "1", "--log-level", "error", "--output", trained];
    assert.equal((await here("train", "--model", "org/tiny", ...args)).code, 0);
    const written = JSON.parse(readFileSync(join(trained, "adapter_config.json"), "utf8"));
    assert.equal(written.base_model_name_or_path, "org/tiny", "not the cache's folder");
    const none = await here("generate", "--model", "org/none", ...ANSWER);
    assert.equal(none.code, 1);
    assert.match(none.stderr, /org\/none/);
  } finally {
    for (const name of ["HF_HOME", "HF_ENDPOINT", "HF_TOKEN"]) delete process.env[name];
    await hub.close();
  }
});

test("hub upload: a folder becomes one commit; without a token that may write it says what is missing", async () => {
  const uploads = await FakeUploads.start();
  Object.assign(process.env, { HF_ENDPOINT: uploads.endpoint, HF_HOME: place.folder });
  try {
    const refused = await here("hub", "upload", adapter, "org/mine");
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /token \(HF_TOKEN\): found none; uploading needs one with write access/);
    process.env.HF_TOKEN = TOKEN.replace("a", "b");
    const { code, stdout, stderr } = await here("hub", "upload", adapter, "org/mine", "--private", "--message", "mine");
    assert.equal(code, 0, stderr);
    assert.equal(stdout, `${uploads.endpoint}/org/mine\n`);
    assert.equal(uploads.seen.filter(({ line }) => /commit/.test(line)).length, 1);
  } finally {
    for (const name of ["HF_HOME", "HF_ENDPOINT", "HF_TOKEN"]) delete process.env[name];
    uploads.close();
  }
});

test("an adapter whose base is not there names the file and the way out", async () => {
  const broken = join(place.folder, "broken");
  cpSync(adapter, broken, { recursive: true });
  writeFileSync(join(broken, "adapter_config.json"), JSON.stringify({ base_model_name_or_path: "/no/where/base" }));
  const { code, stderr } = await here("generate", "--adapter", broken, ...ANSWER);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /broken\/adapter_config\.json: base_model_name_or_path: there is no file or folder .*this folder as its adapter/,
  );
  writeFileSync(join(broken, "adapter_config.json"), "{");
  assert.match(
    (await here("generate", "--adapter", broken, ...ANSWER)).stderr,
    /adapter_config\.json: the file: found no valid JSON/,
  );
});
