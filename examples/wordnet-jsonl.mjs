// Rows {"instruction","output"} from WordNet's glosses (Debian: apt-get install wordnet-base).
// usage: node examples/wordnet-jsonl.mjs [DICT_DIR] [ROWS] > wordnet.jsonl
import { readFileSync } from "node:fs";

const [dir = "/usr/share/wordnet", count = "1200"] = process.argv.slice(2);
const KINDS = { noun: "noun", verb: "verb", adj: "adjective", adv: "adverb" };

const senses = [];
for (const [file, kind] of Object.entries(KINDS)) {
  for (const line of readFileSync(`${dir}/data.${file}`, "utf8").split("\n")) {
    // data line: offset lexfile type count(hex) word … | gloss; the licence's lines begin with spaces.
    const bar = line.indexOf(" | ");
    if (line.startsWith(" ") || bar < 0) continue;
    const fields = line.slice(0, bar).split(" ");
    const gloss = line.slice(bar + 3).trim();
    const [definition, ...examples] = gloss.split(/;\s*(?=")/);
    const word = fields[4].replaceAll("_", " ").replace(/\((a|p|ip)\)$/, "");
    if (definition.length < 20 || definition.length > 160) continue;
    senses.push({ word, kind, definition: definition.trim(), example: examples[0]?.replace(/"/g, "").trim() });
  }
}

// Evenly spread over the dictionary, the same for everybody.
const step = senses.length / Number(count);
for (let i = 0; i < Number(count); i++) {
  const { word, kind, definition, example } = senses[Math.floor(i * step)];
  const output = `${word} (${kind}): ${definition}.${example ? ` Example: ${example}.` : ""}`;
  process.stdout.write(`${JSON.stringify({ instruction: `Define the ${kind} "${word}".`, input: "", output })}\n`);
}
