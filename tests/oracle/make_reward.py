"""What TRL's RewardTrainer computes on the tiny llama3 model: first gradients, twenty logged steps, evaluation, final weights."""

import shutil
import tempfile

import torch
from common import OUT, Float64, generator, save_adapter, save_json, save_tensors, to_float64, versions
from datasets import Dataset
from make_trainer import COMMON, tokenizer
from peft import LoraConfig, get_peft_model
from tiny_models import LINEARS
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

WHERE = OUT / "reward"
MODEL = OUT / "families" / "llama3" / "model"

OPTIONS = {
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 3,
    "gradient_accumulation_steps": 2,
    "max_steps": 20,
    "learning_rate": 2e-3,
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 10,
    "save_strategy": "no",
    "center_rewards_coefficient": 0.05,
}


def pairs(g: torch.Generator, count: int) -> list[dict]:
    """The better answer repeats a token of the prompt, so there is something to learn."""
    rows = []
    for _ in range(count):
        prompt = [1] + (3 + torch.randint(0, 12, (int(torch.randint(2, 6, (), generator=g)),), generator=g)).tolist()
        answers = [
            (20 + torch.randint(0, 60, (int(torch.randint(2, 9, (), generator=g)),), generator=g)).tolist() for _ in range(2)
        ]
        answers[0][-1] = prompt[1]
        rows.append({
            "chosen_ids": prompt + answers[0],
            "rejected_ids": prompt + answers[1],
            "margin": round(float(torch.rand((), generator=g)), 3),
        })
    return rows


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    WHERE.mkdir(parents=True)
    g = generator(77)
    train, held_out = pairs(g, 24), pairs(g, 6)
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, dtype=torch.float32)
    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=LINEARS, task_type="SEQ_CLS", init_lora_weights=False)
    )
    model.peft_config["default"].base_model_name_or_path = "tiny"
    save_adapter(model, WHERE / "adapter_init")
    to_float64(model)
    with Float64(), tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(output_dir=folder, **{**COMMON, "max_length": 1024}, **OPTIONS),
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(held_out),
            processing_class=tokenizer(),
        )
        model.train()
        first = trainer.data_collator([dict(row) for row in train[:2]])
        trainer.compute_loss(model, dict(first)).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        model.zero_grad()
        trainer._metrics["train"].clear()
        trainer._total_train_tokens = 0
        trainer.train()
        history = trainer.state.log_history
    save_tensors(WHERE / "gradients.safetensors", gradients)
    save_adapter(model.float(), WHERE / "adapter_final")
    expected = {"versions": versions(), "options": OPTIONS, "train": train, "eval": held_out, "log_history": history}
    save_json(WHERE / "expected.json", expected)


if __name__ == "__main__":
    main()
