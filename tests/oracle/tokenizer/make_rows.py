"""Writes tests/fixtures/tokenizer/rows.json and packing.json: what TRL makes of rows, and how it packs them.

Run from the repository root after make_tokenizers.py and make_chats.py, with trl 1.16.0, transformers 5.23.0 and
datasets 5.2.0:
    python tests/oracle/tokenizer/make_rows.py

rows.json: [{name, tokenizer, template, options, rows, expected: [{input_ids, labels}]}], by SFTTrainer's own preparation.
packing.json: [{strategy, maxSeqLength, lengths, packs: [[[row, first token], length], ...]}].
"""

import json
import random
from pathlib import Path
from types import SimpleNamespace

from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from trl.data_utils import pack_dataset

FIXTURES = Path("tests/fixtures/tokenizer")

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 more?"},
    {"role": "assistant", "content": "7, naïve 🙂"},
]
ROWS = {
    "text": [{"text": "A plain text."}, {"text": "Ends itself.<EOS>"}, {"text": " "}, {"text": "漢字 and 🙂\n"}],
    "prompt": [
        {"prompt": "Translate: cat ->", "completion": " Katze"},
        {"prompt": "The ans", "completion": "wer is 42."},
        {"prompt": "", "completion": "no prompt"},
        {"prompt": "Line\n", "completion": "\n\nafter"},
    ],
    "messages": [{"messages": CHAT}, {"messages": CHAT[1:3]}],
    "chat prompt": [{"prompt": CHAT[:4], "completion": CHAT[4:]}, {"prompt": CHAT[1:2], "completion": CHAT[2:3]}],
}


def load(name):
    folder = FIXTURES / name
    config = json.loads((folder / "tokenizer_config.json").read_text())
    names = {key: value for key, value in config.items() if key.endswith("_token") and value}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **names)


def prepare(name, rows, template, assistant_only, max_length, completion_only):
    tokenizer = load(name)
    rows = json.loads(json.dumps(rows).replace("<EOS>", tokenizer.eos_token))
    args = SFTConfig(output_dir="/tmp/unused", max_length=max_length, assistant_only_loss=assistant_only, report_to=[], use_cpu=True, bf16=False)
    if completion_only is None:
        completion_only = "prompt" in rows[0]
    trainer = SimpleNamespace(_tokenizer=tokenizer, chat_template=template, completion_only_loss=completion_only)
    dataset = SFTTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, args, False, None, "train")
    expected = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in dataset]
    return rows, expected


def main():
    out = []
    generation = (FIXTURES / "chat/chatml_generation.jinja").read_text()
    for name in ("qwen2", "llama3", "llama2", "gpt2", "mistral"):
        for kind in ("text", "prompt"):
            for completion_only in (None, False):
                rows, expected = prepare(name, ROWS[kind], None, False, None, completion_only)
                option = "all" if completion_only is False and kind == "prompt" else None
                out.append({"name": f"{name} {kind}", "tokenizer": name, "template": None, "trainOn": option,
                            "assistantOnly": False, "maxSeqLength": None, "rows": rows, "expected": expected})
    for kind in ("messages", "chat prompt"):
        for assistant_only in (False, True):
            for max_length in (None, 24):
                rows, expected = prepare("qwen2", ROWS[kind], generation, assistant_only, max_length, None)
                out.append({"name": f"qwen2 {kind}", "tokenizer": "qwen2", "template": "chatml_generation", "trainOn": None,
                            "assistantOnly": assistant_only, "maxSeqLength": max_length, "rows": rows, "expected": expected})
    text = ",\n".join(json.dumps(row) for row in out)
    (FIXTURES / "rows.json").write_text(f"[{text}]\n")

    rng = random.Random(3)
    cases = []
    for strategy in ("bfd", "bfd_split", "wrapped"):
        for max_length, count, top in ((16, 40, 24), (7, 25, 7), (33, 60, 12), (64, 1200, 90), (1, 5, 3)):
            lengths = [rng.randrange(0 if i % 11 == 0 else 1, top + 1) for i in range(count)]
            # A token says which row and place it is from.
            rows = [[i * 1000 + j for j in range(length)] for i, length in enumerate(lengths)]
            packed = pack_dataset(Dataset.from_dict({"input_ids": rows}), max_length, strategy)
            packs = []
            for row in packed:
                parts, at = [], 0
                for length in row.get("seq_lengths") or [len(row["input_ids"])]:
                    parts.append([row["input_ids"][at], length])
                    at += length
                packs.append(parts)
            cases.append({"strategy": strategy, "maxSeqLength": max_length, "lengths": lengths, "packs": packs})
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (FIXTURES / "packing.json").write_text(f"[{text}]\n")
    print(len(out), "preparations,", len(cases), "packings")


if __name__ == "__main__":
    main()
