"""What TRL's SFTTrainer logs and saves on the tiny llama3 model: log_history and trainer_state.json of short runs."""

import shutil
import tempfile
from pathlib import Path

import torch
from common import OUT, generator, save_json, versions
from datasets import Dataset
from peft import PeftModel
from tiny_models import build
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

WHERE = OUT / "trainer"
ADAPTER = OUT / "trajectories" / "llama3_lora" / "adapter_init"

COMMON = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_length": None,
    "report_to": "none",
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    "seed": 7,
}

# Options as both sides take them. The first has short last windows and stops within an epoch.
CASES = {
    "lora": {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 20,
        "learning_rate": 2e-3,
        "warmup_steps": 3,
        "weight_decay": 0.01,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_strategy": "steps",
        "save_steps": 10,
        "load_best_model_at_end": True,
    },
    "full": {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2.5,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_grad_norm": 0.5,
        "label_smoothing_factor": 0.1,
        "logging_steps": 3,
        "logging_first_step": True,
        "include_num_input_tokens_seen": "non_padding",
        "eval_strategy": "epoch",
        "save_strategy": "best",
        "metric_for_best_model": "entropy",
        "eval_on_start": True,
    },
    "plateau": {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 2,
        "max_steps": 8,
        "learning_rate": 5e-2,
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "dataloader_drop_last": True,
    },
}


def make_rows(g: torch.Generator, count: int, targets: int | None) -> list[dict]:
    """Rows of different lengths, with prompts; `targets` trained tokens each where it is given."""
    rows = []
    for _ in range(count):
        prompt = 1 + int(torch.randint(0, 4, (), generator=g))
        n = prompt + (targets or int(torch.randint(4, 12, (), generator=g)))
        ids = [1] + (3 + torch.randint(0, 12, (n - 1,), generator=g)).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


def tokenizer() -> PreTrainedTokenizerFast:
    """Only its padding is used: rows are tokenised already."""
    vocabulary = {f"t{i}": i for i in range(101)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="t3"))
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="t0", bos_token="t1", eos_token="t2", unk_token="t3")


class Recorder(TrainerCallback):
    """Names of the events, in order."""

    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        # The base class defines every event: looking one up is what tells its name.
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda args, state, control, **kwargs: self.events.append(f"{name}@{state.global_step}")


def write(name: str, options: dict, train: list[dict], held_out: list[dict]) -> None:
    where = WHERE / name
    where.mkdir(parents=True)
    torch.manual_seed(0)
    model = build("llama3")
    if name != "full":
        model = PeftModel.from_pretrained(model, ADAPTER, is_trainable=True)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder()
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(output_dir=folder, **{**COMMON, **options}),
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(held_out),
            processing_class=tokenizer(),
            callbacks=[recorder],
        )
        trainer.train()
        checkpoints = sorted(path.name for path in Path(folder).glob("checkpoint-*"))
        if checkpoints:
            last = max(checkpoints, key=lambda path: int(path.split("-")[1]))
            text = (Path(folder) / last / "trainer_state.json").read_text().replace(folder, "OUTPUT_DIR")
            (where / "trainer_state.json").write_text(text)
        save_json(
            where / "expected.json",
            {
                "options": {**options, "train_sampling_strategy": "sequential"},
                "events": recorder.events,
                "checkpoints": checkpoints,
                "log_history": trainer.state.log_history,
                "versions": versions(),
            },
        )
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print(f"{name}: {len(losses)} losses {losses[0]:.4f} -> {losses[-1]:.4f}; {checkpoints}")


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    g = generator(900)
    train, held_out = make_rows(g, 27, None), make_rows(g, 4, 8)
    WHERE.mkdir(parents=True)
    save_json(WHERE / "rows.json", {"train": train, "eval": held_out})
    for name, options in CASES.items():
        write(name, options, train, held_out)


if __name__ == "__main__":
    main()
