// Memory of one PPO step: ours, one base with adapters, against TRL's separate models (trl_ppo_memory.py, which wants
// trl 1.12.0: see tests/oracle/make_rl_ppo.py). usage: node bench/rl_memory.mjs MODEL_FOLDER [PYTHON]
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { addValueAdapter, Dataset, getPeftModel, loadModel, openCpuBackend, PPOTrainer } from "unsloth";

const [path, python] = process.argv.slice(2);
if (!path) throw new Error("usage: node bench/rl_memory.mjs MODEL_FOLDER [PYTHON]");
const [PROMPTS, PROMPT, RESPONSE] = [4, 64, 32];
const MIB = 2 ** 20;

const backend = await openCpuBackend();
const base = await loadModel({ path, backend });
const targetModules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const model = await getPeftModel(base, { r: 16, loraAlpha: 16, targetModules });
await addValueAdapter(model);
await addValueAdapter(model, { adapterName: "reward" });
// Prompts of token ids as text: no tokenizer is needed to measure memory.
const tokenizer = {
  vocabSize: base.config.vocabSize,
  eosTokenId: null,
  eosTokenIds: [],
  padTokenId: null,
  encode: (text) => text.split(" ").map(Number),
  decode: (ids) => [...ids].join(" "),
  savePretrained: async () => [],
};
const prompt = (i) => Array.from({ length: PROMPT }, (_, t) => 100 + ((37 * i + 11 * t) % 1000)).join(" ");
const ppo = new PPOTrainer({
  model,
  tokenizer,
  rewardModel: "reward",
  trainDataset: Dataset.fromList(Array.from({ length: PROMPTS }, (_, i) => ({ prompt: prompt(i) }))),
  args: {
    perDeviceTrainBatchSize: PROMPTS,
    responseLength: RESPONSE,
    numPpoEpochs: 1,
    maxSteps: 1,
    saveStrategy: "no",
    logLevel: "error",
    outputDir: "outputs/rl-memory",
  },
});
await ppo.train();
const { peak } = backend.memory();
const weights = base.parameterBytes;
console.log(
  `ours: ${Math.round(peak / MIB)} MiB planned at most, of which ${Math.round(weights / MIB)} are the base's weights; ` +
    `process ${Math.round(process.resourceUsage().maxRSS / 1024)} MiB`,
);
ppo.dispose();
model.dispose();
backend.dispose();

if (python) {
  const script = fileURLToPath(new URL("trl_ppo_memory.py", import.meta.url));
  const { stdout, stderr, status } = spawnSync(python, [script, path, PROMPTS, PROMPT, RESPONSE].map(String), {
    encoding: "utf8",
    env: { ...process.env, OMP_NUM_THREADS: "2" },
  });
  if (status !== 0) throw new Error(stderr);
  console.log(stdout.trim().split("\n").at(-1));
}
