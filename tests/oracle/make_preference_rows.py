"""Writes tests/fixtures/oracle/preference/rows.json: what TRL's DPO, KTO and ORPO trainers make of rows.

Each case: {trainer, tokenizer, template, max_length, truncation, rows, expected}; expected rows hold ids and labels of
chosen and rejected, or of a completion with its label, as the trainers' own preparation and collators give them.
"""

import json
from pathlib import Path
from types import SimpleNamespace

from common import OUT
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.data_utils import maybe_apply_chat_template, maybe_extract_prompt
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

TOKENIZERS = Path(__file__).resolve().parent.parent / "fixtures" / "tokenizer"

ASK = [{"role": "user", "content": "What is 2 + 2?"}]
LONG = [{"role": "system", "content": "Be kind."}, *ASK, {"role": "assistant", "content": "4"}, {"role": "user", "content": "And 3?"}]


def say(text):
    return [{"role": "assistant", "content": text}]


TEXT = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green as grass."},
    {"prompt": "The ans", "chosen": "wer is 42.", "rejected": "wers are many."},
    {"prompt": "Line\n", "chosen": "\n\nafter", "rejected": "none<EOS>"},
    {"prompt": "", "chosen": "no prompt", "rejected": "still none"},
]
IMPLICIT = [
    {"chosen": "\n\nHuman: hi\n\nAssistant: hello there", "rejected": "\n\nHuman: hi\n\nAssistant: go away"},
    {"chosen": "same beginning", "rejected": "same beginning and more"},
    {"chosen": "smile 🙂 yes", "rejected": "smile 🙃 no"},
]
CHAT = [
    {"prompt": ASK, "chosen": say("4"), "rejected": say("It is 5, I think.")},
    {"prompt": LONG, "chosen": say("7, naïve 🙂"), "rejected": say("8")},
]
IMPLICIT_CHAT = [{"chosen": ASK + say("4"), "rejected": ASK + say("five")}, {"chosen": LONG + say("7"), "rejected": LONG + say("8")}]
UNPAIRED = [
    {"prompt": "The sky is", "completion": " blue.", "label": True},
    {"prompt": "The ans", "completion": "wers are many.", "label": False},
]
UNPAIRED_CHAT = [{"prompt": LONG, "completion": say("7, naïve 🙂"), "label": True}, {"prompt": ASK, "completion": say("five"), "label": False}]


def load(name, template):
    folder = TOKENIZERS / name
    config = json.loads((folder / "tokenizer_config.json").read_text())
    names = {key: value for key, value in config.items() if key.endswith("_token") and value}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **names)
    tokenizer.pad_token = tokenizer.eos_token
    if template:
        tokenizer.chat_template = (TOKENIZERS / "chat" / f"{template}.jinja").read_text()
    return tokenizer


def labelled(ids, mask):
    return {"input_ids": ids, "labels": [i if m else -100 for i, m in zip(ids, mask)]}


def trimmed(batch, row, prefix=""):
    length = int(batch[f"{prefix}attention_mask"][row].sum())
    ids, mask = batch[f"{prefix}input_ids"][row].tolist(), batch[f"{prefix}completion_mask"][row].tolist()
    return labelled(ids[:length], mask[:length])


def dpo(tokenizer, rows, max_length, truncation):
    args = DPOConfig(output_dir="/tmp/unused", max_length=max_length, truncation_mode=truncation, report_to=[], use_cpu=True, bf16=False)
    data = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), Dataset.from_list(rows), tokenizer, args, "train")
    collate = DataCollatorForPreference(tokenizer.pad_token_id, max_length, truncation)
    out = []
    for row in data:
        batch = collate([row])
        out.append({"chosen": trimmed(batch, 0), "rejected": trimmed(batch, 1)})
    return out


def kto(tokenizer, rows, max_length, truncation):
    args = KTOConfig(output_dir="/tmp/unused", max_length=max_length, report_to=[], use_cpu=True, bf16=False)
    trainer = SimpleNamespace(_tokenizer=tokenizer, calculate_KL=False, desirable_weight=1.0, undesirable_weight=1.0)
    data = KTOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, args, "train")
    collate = DataCollatorForUnpairedPreference(tokenizer.pad_token_id, max_length)
    return [{"label": row["label"], "completion": trimmed(collate([row]), 0)} for row in data]


def orpo(tokenizer, rows, max_length, truncation):
    trainer = SimpleNamespace(processing_class=tokenizer, is_encoder_decoder=False, max_length=max_length or 10**6)
    trainer.build_tokenized_answer = lambda prompt, answer: ORPOTrainer.build_tokenized_answer(trainer, prompt, answer)
    out = []
    for row in rows:
        text = maybe_apply_chat_template(maybe_extract_prompt(row), tokenizer)
        one = ORPOTrainer.tokenize_row(trainer, text)
        out.append({k: {"input_ids": one[f"{k}_input_ids"], "labels": one[f"{k}_labels"]} for k in ("chosen", "rejected")})
    return out


def main() -> None:
    out = []
    makers = {"dpo": dpo, "kto": kto, "orpo": orpo}

    def case(trainer, name, template, rows, max_length=None, truncation="keep_start"):
        tokenizer = load(name, template)
        rows = json.loads(json.dumps(rows).replace("<EOS>", tokenizer.eos_token))
        expected = makers[trainer](tokenizer, rows, max_length, truncation)
        out.append({"trainer": trainer, "tokenizer": name, "template": template, "max_length": max_length,
                    "truncation": truncation, "rows": rows, "expected": expected})

    for name in ("qwen2", "llama3", "llama2", "gpt2", "mistral"):
        for trainer in ("dpo", "orpo"):
            case(trainer, name, None, TEXT)
            case(trainer, name, None, IMPLICIT)
        case("kto", name, None, UNPAIRED)
        case("kto", name, None, TEXT)
    for template in ("chatml", "open_think", "reasoning"):
        for trainer in ("dpo", "orpo"):
            case(trainer, "qwen2", template, CHAT)
            case(trainer, "qwen2", template, IMPLICIT_CHAT)
        case("kto", "qwen2", template, UNPAIRED_CHAT)
    for max_length, truncation in ((50, "keep_start"), (24, "keep_end"), (8, "keep_end")):
        case("dpo", "qwen2", "chatml", CHAT, max_length, truncation)
    case("orpo", "qwen2", "chatml", CHAT, 50)
    case("kto", "qwen2", "chatml", UNPAIRED_CHAT, 50)
    text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in out)
    path = OUT / "preference" / "rows.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[{text}]\n")
    print(len(out), "preparations,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
