"""What TRL's DPO, KTO, CPO and ORPO trainers compute on a tiny model: losses, metrics, LoRA gradients, short trainings.

model/, adapter/ (the policy), adapter_ref/ (a named reference), data.json (rows), cases.json + gradients.safetensors (one
batch of each loss, float64), trajectories.json (20 steps each, float64).
"""

import copy
import json
import shutil
import tempfile
from contextlib import nullcontext

import torch
from common import OUT, Float64, generator, save_adapter, save_json, save_tensors, to_float64, versions
from datasets import Dataset
from make_preference_rows import load
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import randomise, rope
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

WHERE = OUT / "preference"
WORDS = "red green blue cat dog tree house river stone cloud seven nine eleven quick slow bright".split()
COMMON = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 7,
    "max_length": 48,
    "logging_steps": 1,
    "learning_rate": 2e-3,
    "save_strategy": "no",
}
TRAINERS = {"dpo": (DPOTrainer, DPOConfig), "kto": (KTOTrainer, KTOConfig), "cpo": (CPOTrainer, CPOConfig), "orpo": (ORPOTrainer, ORPOConfig)}

CASES = [
    *({"trainer": "dpo", "name": loss, "options": {"loss_type": loss}} for loss in
      ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm")),
    {"trainer": "dpo", "name": "exo_pair", "options": {"loss_type": "exo_pair", "label_smoothing": 1e-3}},
    {"trainer": "dpo", "name": "robust", "options": {"loss_type": "robust", "label_smoothing": 0.2, "beta": 0.5}},
    {"trainer": "dpo", "name": "aot smoothed", "options": {"loss_type": "aot", "label_smoothing": 0.1}},
    {"trainer": "dpo", "name": "aot_unpaired smoothed", "options": {"loss_type": "aot_unpaired", "label_smoothing": 0.1}},
    {"trainer": "dpo", "name": "beta", "options": {"beta": 0.7}},
    {"trainer": "dpo", "name": "mpo", "options": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}},
    {"trainer": "dpo", "name": "ld", "options": {"ld_alpha": 0.3}},
    {"trainer": "dpo", "name": "ld aot", "options": {"ld_alpha": 0.0, "loss_type": "aot"}},
    {"trainer": "dpo", "name": "forward kl", "options": {"f_divergence_type": "forward_kl"}},
    {"trainer": "dpo", "name": "js", "options": {"f_divergence_type": "js_divergence", "loss_type": "ipo"}},
    {"trainer": "dpo", "name": "alpha", "options": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}, "float32": True},
    {"trainer": "dpo", "name": "alpha norm", "options": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0, "loss_type": "sigmoid_norm"}, "float32": True},
    {"trainer": "dpo", "name": "wpo", "options": {"use_weighting": True}},
    {"trainer": "dpo", "name": "keep end", "options": {"truncation_mode": "keep_end", "max_length": 14}},
    {"trainer": "dpo", "name": "named reference", "options": {}, "reference": "adapter_ref"},
    {"trainer": "kto", "name": "kto", "options": {}},
    {"trainer": "kto", "name": "apo_zero_unpaired", "options": {"loss_type": "apo_zero_unpaired"}},
    {"trainer": "kto", "name": "weights", "options": {"desirable_weight": 1.5, "undesirable_weight": 0.6, "beta": 0.4}},
    {"trainer": "kto", "name": "short", "options": {"max_length": 16}},
    {"trainer": "kto", "name": "wanted only", "options": {}, "rows": [0, 2, 3, 0]},
    *({"trainer": "cpo", "name": loss, "options": {"loss_type": loss}} for loss in ("sigmoid", "hinge", "ipo", "simpo", "alphapo")),
    {"trainer": "cpo", "name": "smoothed", "options": {"label_smoothing": 0.1, "cpo_alpha": 0.5}},
    {"trainer": "cpo", "name": "simpo alone", "options": {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 1.0, "beta": 2.0}},
    {"trainer": "cpo", "name": "alphapo simpo", "options": {"loss_type": "alphapo", "alpha": 0.25, "beta": 2.5}},
    {"trainer": "orpo", "name": "orpo", "options": {}},
    {"trainer": "orpo", "name": "orpo beta", "options": {"beta": 0.8}},
]

TRAJECTORIES = [
    {"trainer": "dpo", "name": "dpo", "options": {"gradient_accumulation_steps": 2}},
    {"trainer": "dpo", "name": "dpo ipo", "options": {"loss_type": "ipo", "gradient_accumulation_steps": 3}},
    {"trainer": "kto", "name": "kto", "options": {}},
    {"trainer": "cpo", "name": "simpo", "options": {"loss_type": "simpo", "cpo_alpha": 0.3, "beta": 2.0}},
    {"trainer": "orpo", "name": "orpo", "options": {}},
    # Without a reference TRL takes a copy of the adapter as it is given.
    {"trainer": "dpo", "name": "dpo from an adapter", "options": {"beta": 0.5}, "reference": "initial"},
    {"trainer": "kto", "name": "kto from an adapter", "options": {"beta": 0.5}, "reference": "initial"},
]


def make_model(vocabulary: int):
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, rms_norm_eps=1e-5, tie_word_embeddings=True,
        num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, max_position_embeddings=128,
        rope_parameters=rope(10000.0), pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    randomise(model, 4200)
    return model


def add_adapter(model, seed: int):
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    g = generator(seed)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.4)
    return tuned


def make_rows(g: torch.Generator, count: int) -> list[dict]:
    def words(least: int, most: int) -> str:
        n = int(torch.randint(least, most + 1, (), generator=g))
        return " ".join(WORDS[int(torch.randint(0, len(WORDS), (), generator=g))] for _ in range(n))

    return [{"prompt": words(1, 3), "chosen": " " + words(1, 3), "rejected": " " + words(1, 3)} for _ in range(count)]


def to_unpaired(rows: list[dict]) -> list[dict]:
    """Alternating wanted and not, four of each eight."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen"] if i % 3 else row["rejected"], "label": i % 3 != 1}
        for i, row in enumerate(rows)
    ]


def trainer_for(case: dict, rows: list[dict], held_out: list[dict] | None, tokenizer, folder: str, extra: dict):
    kind, config = TRAINERS[case["trainer"]]
    base = make_model(len(tokenizer))
    policy = PeftModel.from_pretrained(base, WHERE / "adapter", is_trainable=True)
    args = config(output_dir=folder, train_sampling_strategy="sequential", **{**COMMON, **extra, **case["options"]})
    more = {}
    if case["trainer"] in ("dpo", "kto") and "reference" not in case:
        more["ref_model"] = make_model(len(tokenizer))
    trainer = kind(
        model=policy, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        eval_dataset=None if held_out is None else Dataset.from_list(held_out), **more,
    )  # fmt: skip
    if case.get("reference", "initial") != "initial":
        from safetensors.torch import load_file

        weights = load_file(WHERE / case["reference"] / "adapter_model.safetensors")
        with torch.no_grad():
            for name, p in trainer.model.named_parameters():
                if ".ref." in name:
                    p.copy_(weights[name.replace(".ref.", ".")])
    if "float32" in case:  # TRL's alpha divergence knows no other type.
        return trainer
    to_float64(trainer.model)
    if getattr(trainer, "ref_model", None) is not None:
        to_float64(trainer.ref_model)
    return trainer


def answer_logits(model, batch: dict) -> dict:
    """Mean logit over the tokens of the answers, which is DPOTrainer's definition; CPO's and ORPO's take in padding too."""
    out = {}
    for kind in ("chosen", "rejected"):
        ids, labels = batch[f"{kind}_input_ids"], batch[f"{kind}_labels"]
        logits = model(input_ids=ids, attention_mask=batch[f"{kind}_attention_mask"], use_cache=False).logits
        out[f"logits/{kind}"] = float(logits[:, :-1][labels[:, 1:] != -100].mean().detach())
    return out


def one_batch(case: dict, rows: list[dict], tokenizer) -> tuple[dict, dict]:
    with tempfile.TemporaryDirectory() as folder:
        extra = {"per_device_train_batch_size": len(rows), "max_steps": 1}
        trainer = trainer_for(case, rows, None, tokenizer, folder, extra)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        with nullcontext() if "float32" in case else Float64():
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
            stored = trainer._metrics if hasattr(trainer, "_metrics") else trainer._stored_metrics
            metrics = {key: values[-1] for key, values in stored["train"].items() if key != "num_tokens"}
            if case["trainer"] in ("cpo", "orpo"):
                metrics |= answer_logits(trainer.model, batch)
    gradients = {name.replace(".default.", "."): p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return {"loss": float(loss.detach()), "metrics": {k: float(v) for k, v in metrics.items()}}, gradients


def trajectory(case: dict, rows: list[dict], held_out: list[dict], tokenizer) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        extra = {
            "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "max_steps": 20, "warmup_steps": 3,
            "weight_decay": 0.01, "eval_strategy": "steps", "eval_steps": 10,
        }  # fmt: skip
        trainer = trainer_for(case, rows, held_out, tokenizer, folder, extra)
        with Float64():
            trainer.train()
    skip = ("logits/", "_runtime", "_per_second", "total_flos")
    if case["trainer"] not in ("cpo", "orpo"):
        skip = skip[1:]
    return [{k: v for k, v in row.items() if not any(part in k for part in skip)} for row in trainer.state.log_history]


def main() -> None:
    for name in ("model", "adapter", "adapter_ref"):
        shutil.rmtree(WHERE / name, ignore_errors=True)
    tokenizer = load("qwen2", None)
    make_model(len(tokenizer)).save_pretrained(WHERE / "model")
    (WHERE / "model" / "generation_config.json").unlink(missing_ok=True)
    for name, seed in (("adapter", 1), ("adapter_ref", 2)):
        save_adapter(add_adapter(make_model(len(tokenizer)), seed), WHERE / name)
    g = generator(77)
    rows, train, held_out = make_rows(g, 6), make_rows(g, 13), make_rows(g, 4)
    singles = to_unpaired(rows)
    cases, gradients = [], {}
    for case in CASES:
        own = singles if case["trainer"] == "kto" else rows
        own = [own[i] for i in case["rows"]] if "rows" in case else own
        expected, found = one_batch(case, copy.deepcopy(own), tokenizer)
        cases.append({**case, **expected})
        gradients |= {f"{case['trainer']} {case['name']}/{name}": grad for name, grad in found.items()}
        print(case["trainer"], case["name"], expected["loss"])
    save_tensors(WHERE / "gradients.safetensors", gradients)
    data = {"batch": rows, "singles": singles, "train": train, "eval": held_out, "train_singles": to_unpaired(train), "eval_singles": to_unpaired(held_out)}
    save_json(WHERE / "data.json", data)
    save_json(WHERE / "cases.json", {"common": {"max_length": COMMON["max_length"]}, "cases": cases, "versions": versions()})
    runs = []
    for case in TRAJECTORIES:
        single = case["trainer"] == "kto"
        history = trajectory(case, data["train_singles" if single else "train"], data["eval_singles" if single else "eval"], tokenizer)
        runs.append({**case, "log_history": history})
        losses = [row["loss"] for row in history if "loss" in row]
        print(case["name"], losses[0], losses[-1])
    text = ",\n".join(json.dumps(run) for run in runs)
    (WHERE / "trajectories.json").write_text(f"[{text}]\n")


if __name__ == "__main__":
    main()
