import { downloadLines } from "../api/download-progress.ts";
import { pushToHub, resolveDataset, resolveModel } from "../hub/index.ts";
import { CliCommand } from "./command.ts";
import { note, print } from "./terminal.ts";

const EXAMPLES = `
Examples:
  unsloth hub download Qwen/Qwen2.5-0.5B-Instruct
  unsloth hub download Qwen/Qwen2.5-0.5B-Instruct-GGUF:q4_k_m
  unsloth hub download openai/gsm8k --dataset
  unsloth hub upload outputs your-name/my-adapter --private`;

/** `unsloth hub`: models and data sets of the Hugging Face hub. */
export function hubCommand(): CliCommand {
  const hub = new CliCommand("hub").description("download from and upload to the Hugging Face hub");
  hub
    .command("download")
    .description("fetch a model or data set into Hugging Face's cache and print where it is")
    .argument("<id>", "organisation/name; organisation/name:file for one GGUF file")
    .option("--revision <name>", "branch, tag, refs/pr/N or commit", "main")
    .option("--dataset", "a data set rather than a model")
    .option("--allow-patterns <a,b,…>", "only the files that match one of these patterns")
    .option("--cache-dir <dir>", "instead of HF_HUB_CACHE")
    .addHelpText("after", EXAMPLES)
    .action(runDownload);
  hub
    .command("upload")
    .description("upload a folder as one commit; the repository is created if there is none")
    .argument("<folder>", "an adapter's or model's folder")
    .argument("<id>", "organisation/name")
    .option("--revision <branch>", "an existing branch", "main")
    .option("--private", "make a repository that is created private")
    .option("--dataset", "to a data set's repository")
    .option("--message <text>", "commit message")
    .addHelpText("after", EXAMPLES)
    .action(runUpload);
  return hub.addHelpText("after", EXAMPLES) as CliCommand;
}

interface DownloadFlags {
  readonly revision: string;
  readonly dataset?: boolean;
  readonly allowPatterns?: string;
  readonly cacheDir?: string;
}

async function runDownload(id: string, flags: DownloadFlags): Promise<void> {
  const { revision, dataset, allowPatterns, cacheDir } = flags;
  const options = {
    revision,
    cacheDir,
    allowPatterns: allowPatterns?.split(",").map((pattern) => pattern.trim()),
    onProgress: downloadLines(id),
  };
  print(await (dataset ? resolveDataset(id, options) : resolveModel(id, options)));
}

interface UploadFlags {
  readonly revision: string;
  readonly private?: boolean;
  readonly dataset?: boolean;
  readonly message?: string;
}

async function runUpload(folder: string, id: string, flags: UploadFlags): Promise<void> {
  const { revision, message, dataset } = flags;
  note(`uploading ${folder} to ${id}`);
  const { url, commit, files } = await pushToHub(folder, id, {
    revision,
    repoType: dataset ? "dataset" : "model",
    ...(flags.private && { private: true }),
    ...(message !== undefined && { commitMessage: message }),
  });
  note(`${files.length} files${commit ? `, commit ${commit.slice(0, 8)}` : ""}`);
  print(url);
}
