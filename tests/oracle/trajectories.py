"""Twenty optimizer steps of LoRA, NF4 LoRA and full fine-tuning on tiny models: losses, norms, rates, final weights."""

import copy
import shutil

import torch
from common import OUT, batch_loss, generator, save_adapter, save_json, save_tensors, to_float64, versions
from nf4 import decode_folder
from peft import LoraConfig, get_peft_model
from tiny_models import LINEARS, build
from transformers import get_linear_schedule_with_warmup

WHERE = OUT / "trajectories"
STEPS, WARMUP, ACCUMULATION = 20, 3, 2
HYPER = {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
# Gradients of Gemma's down_proj that are float32 rounding would, with the usual epsilon, move weights by whole steps.
EPSILONS = {"gemma2_lora": 1e-6}
MAX_GRAD_NORM = 1.0


def make_window(g: torch.Generator) -> list[dict]:
    """Microbatches of two sequences with different lengths and prompts, so their target counts differ."""
    window = []
    for _ in range(ACCUMULATION):
        micro = {"input_ids": [], "labels": []}
        for _ in range(2):
            n = int(torch.randint(6, 15, (), generator=g))
            prompt = int(torch.randint(0, 5, (), generator=g))
            # A small alphabet gives the model something to learn.
            ids = [1] + (3 + torch.randint(0, 12, (n - 1,), generator=g)).tolist()
            micro["input_ids"].append(ids)
            micro["labels"].append([-100] * prompt + ids[prompt:])
        window.append(micro)
    return window


def target_tokens(window: list[dict]) -> int:
    return sum(t != -100 for micro in window for labels in micro["labels"] for t in labels[1:])


def hyper_for(name: str) -> dict:
    return {**HYPER, "eps": EPSILONS.get(name, HYPER["eps"])}


def optimizer_for(model, hyper: dict):
    """transformers' grouping: no decay on names with bias or norm."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = [p for n, p in named if "bias" not in n and "norm" not in n]
    rest = [p for n, p in named if "bias" in n or "norm" in n]
    groups = [{"params": decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], **hyper)


def train(model, windows: list[list[dict]], hyper: dict) -> list[dict]:
    optimizer = optimizer_for(model, hyper)
    scheduler = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    rows = []
    for window in windows:
        n = target_tokens(window)
        loss = 0.0
        for micro in window:
            mean, count = batch_loss(model, micro)
            part = mean * count / n
            part.backward()
            loss += float(part.detach())
        norm = torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM)
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        rows.append({"loss": loss, "grad_norm": float(norm), "learning_rate": rate, "target_tokens": n})
    return rows


def worst(a: list[dict], b: list[dict], key: str) -> float:
    return max(abs(x[key] - y[key]) for x, y in zip(a, b))


def write(name: str, base_folder: str, model, seed: int, lora: bool) -> None:
    where = WHERE / name
    where.mkdir(parents=True)
    g = generator(seed)
    windows = [make_window(g) for _ in range(STEPS)]
    if lora:
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
        save_adapter(model, where / "adapter_init")
    double = to_float64(copy.deepcopy(model))
    hyper = hyper_for(name)
    rows, low = train(double, windows, hyper), train(model, windows, hyper)
    if lora:
        save_adapter(double.float(), where / "adapter_final")
    else:
        save_tensors(where / "model_final.safetensors", dict(double.named_parameters()))
    pairs = zip(double.parameters(), model.parameters())
    drift = max(float((p.double() - q.double()).detach().abs().max()) for p, q in pairs if p.requires_grad)
    save_json(
        where / "trajectory.json",
        {
            "base_model": base_folder,
            "trained": "lora (adapter_init -> adapter_final)"
            if lora
            else "all parameters (-> model_final.safetensors)",
            "optimizer": {"name": "AdamW", **hyper, "betas": list(hyper["betas"]), "no_decay": ["bias", "norm"]},
            "schedule": {"name": "linear", "warmup_steps": WARMUP, "total_steps": STEPS},
            "max_grad_norm": MAX_GRAD_NORM,
            "loss": "sum of CE over the window's target tokens / target_tokens; grad_norm is before clipping",
            "precision": "float64 throughout",
            "pytorch_float32_max_abs_difference": {
                "loss": worst(rows, low, "loss"),
                "grad_norm": worst(rows, low, "grad_norm"),
                "final_weights": drift,
            },
            "steps": [{**row, "microbatches": window} for row, window in zip(rows, windows)],
            "versions": versions(),
        },
    )
    print(
        f"{name}: loss {rows[0]['loss']:.4f} -> {rows[-1]['loss']:.4f}, norms {rows[0]['grad_norm']:.3f} .. "
        f"{rows[-1]['grad_norm']:.3f}, float32 differs by {worst(rows, low, 'loss'):.1e}, weights {drift:.1e}"
    )


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    for i, name in enumerate(["llama3", "qwen2", "gemma2"]):
        write(f"{name}_lora", f"families/{name}/model", build(name), 600 + i, lora=True)
    write("llama3_full", "families/llama3/model", build("llama3"), 610, lora=False)
    decoded = build("llama3")
    with torch.no_grad():
        weights = decode_folder(OUT / "nf4" / "model_f32")
        for key, p in decoded.named_parameters():
            p.copy_(weights[key])
    write("llama3_nf4_lora", "nf4/model_f32", decoded, 611, lora=True)


if __name__ == "__main__":
    main()
