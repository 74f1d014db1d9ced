// The embedded model's tokenizer: NFC, a split into words, single digits and signs, byte-level BPE, ChatML.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PreTokenizer } from "../../dist/tokenizer/pre-tokenizer.js";
import { trainBpe } from "./bpe.mjs";
import { corpus, rowTexts } from "./corpus.mjs";

export const VOCAB_SIZE = 1536;
export const SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

const SPLIT = " ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const PRE_TOKENIZER = {
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex: SPLIT }, behavior: "Isolated", invert: false },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
  ],
};
const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
const TEMPLATE =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** Trains on `rows` rows of the corpus and writes tokenizer.json and tokenizer_config.json. */
export async function writeTokenizer(folder, { rows, seed }) {
  const splitter = new PreTokenizer(PRE_TOKENIZER);
  const pieces = new Map();
  for (const row of corpus(rows, seed)) {
    for (const text of rowTexts(row)) {
      for (const piece of splitter.split(text.normalize("NFC"), true).text) {
        pieces.set(piece, (pieces.get(piece) ?? 0) + 1);
      }
    }
  }
  // Twelve bytes: four Chinese characters, or a word of twelve letters.
  const { vocab, merges } = trainBpe(pieces, { vocabSize: VOCAB_SIZE - SPECIAL.length, maxBytes: 12 });
  const added = SPECIAL.map((content, i) => ({
    id: vocab.length + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: { type: "NFC" },
    pre_tokenizer: PRE_TOKENIZER,
    post_processor: BYTE_LEVEL,
    decoder: BYTE_LEVEL,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
      merges,
    },
  };
  const config = {
    added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [id, token])),
    bos_token: null,
    chat_template: TEMPLATE,
    clean_up_tokenization_spaces: false,
    eos_token: "<|im_end|>",
    model_max_length: 1024,
    pad_token: "<|endoftext|>",
    tokenizer_class: "PreTrainedTokenizerFast",
    unk_token: null,
  };
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "tokenizer.json"), `${JSON.stringify(tokenizer, null, 1)}\n`);
  await writeFile(join(folder, "tokenizer_config.json"), `${JSON.stringify(config, null, 2)}\n`);
}
