"""PEFT's variants of LoRA: DoRA's gradients, AdaLoRA's and LoRA+'s trainings, and initialisations from the base weight.

Everything but the initialisations (PEFT computes them in float32) is float64, from stored float32 weights.
"""

import copy
import shutil

import bitsandbytes.functional as bnb
import torch
from common import (
    OUT,
    Float64,
    batch_loss,
    forward_logits,
    generator,
    save_adapter,
    save_json,
    save_tensors,
    to_float64,
    versions,
)
from families import make_batch
from lora_variants import randomise_trained
from nf4 import decode_folder
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tiny_models import LINEARS, build
from transformers import get_linear_schedule_with_warmup

WHERE = OUT / "peft_variants"
STEPS = 20
MAX_GRAD_NORM = 1.0


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "task_type": "CAUSAL_LM", **options})


def decoded_llama3():
    model = build("llama3")
    with torch.no_grad():
        weights = decode_folder(OUT / "nf4" / "model_f32")
        for key, p in model.named_parameters():
            p.copy_(weights[key])
    return model


# name -> (folder of the base model, how to build it, LoraConfig options)
DORA = {
    "dora_llama": ("families/llama/model", lambda: build("llama"), {"target_modules": LINEARS}),
    "dora_qwen2": ("families/qwen2/model", lambda: build("qwen2"), {"target_modules": LINEARS, "bias": "lora_only"}),
    "dora_nf4": ("nf4/model_f32", decoded_llama3, {"target_modules": LINEARS, "use_rslora": True}),
    "dora_embedding": (
        "families/llama/model",
        lambda: build("llama"),
        {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    ),
    "dora_embedding_scaled": (
        "families/gemma2/model",
        lambda: build("gemma2"),
        {"target_modules": ["embed_tokens", "v_proj"]},
    ),
}


# Rows of tables; of Qwen2 and Gemma 2 the head is the table. As DORA.
TOKENS = {
    "tokens_untied": (
        "families/llama/model",
        lambda: build("llama"),
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 80, 12], "lm_head": [7, 12]}},
    ),
    "tokens_tied": (
        "families/qwen2/model",
        lambda: build("qwen2"),
        {"target_modules": LINEARS, "trainable_token_indices": [40, 3, 14, 8]},
    ),
    "tokens_scaled": (
        "families/gemma2/model",
        lambda: build("gemma2"),
        {"target_modules": ["v_proj"], "trainable_token_indices": {"embed_tokens": [4, 11, 3]}},
    ),
}


def write_gradients(name: str, folder: str, make, options: dict, seed: int) -> None:
    """Logits, loss and every gradient of an adapter whose tensors are all random; its rows, where it has some, merged."""
    where = WHERE / name
    base = make()
    tuned = get_peft_model(base, lora(**options))
    save_adapter(tuned, where / "init")
    randomise_trained(tuned, seed)
    save_adapter(tuned, where / "adapter")
    double = to_float64(copy.deepcopy(tuned))
    batch = make_batch(90, seed)
    logits = []
    loss, count = batch_loss(double, batch, logits)
    loss.backward()
    tensors = {f"lora_logits.{i}": t for i, t in enumerate(logits)}
    tensors.update(gradients(double))
    save_tensors(where / "expect.safetensors", tensors)
    facts = {"base_model": folder, "batch": batch, "loss": float(loss.detach()), "target_tokens": count}
    facts["trainable_parameters"] = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    save_json(where / "expect.json", {**facts, "versions": versions()})
    print(name, float(loss.detach()), len(tensors))
    if name in TOKENS:
        merged = double.merge_and_unload()
        tables = {"embed_tokens": merged.get_input_embeddings().weight, "lm_head": merged.get_output_embeddings().weight}
        rows = {f"{key}.{i}": table[i].clone() for key, table in tables.items() for i in (3, 5, 7, 12, 14, 40, 80)}
        save_tensors(where / "merged.safetensors", rows)


def gradients(tuned) -> dict:
    """By the names of adapter_model.safetensors."""
    out = {}
    for n, p in tuned.named_parameters():
        if p.grad is None:
            continue
        name = n.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
        out[f"grad.{name.replace('.default', '')}"] = p.grad
    return out


def sequences(seed: int, steps: int) -> list[dict]:
    """One sequence a step, of a small alphabet so that there is something to learn."""
    g = generator(seed)
    rows = []
    for _ in range(steps):
        n = int(torch.randint(8, 16, (), generator=g))
        ids = [1] + (3 + torch.randint(0, 12, (n - 1,), generator=g)).tolist()
        rows.append({"input_ids": [ids], "labels": [[-100, -100] + ids[2:]]})
    return rows


def own_loss(model, row: dict) -> torch.Tensor:
    """The loss PEFT's own forward returns: AdaLoRA's has the orthogonality term."""
    with Float64():
        x, y = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        return model(input_ids=x, labels=y, use_cache=False).loss


def full_tensors(model) -> dict:
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}


# Two schedules: ranks that settle before the end, and pruning up to the last step.
ADALORA = {
    "adalora": {"tinit": 3, "tfinal": 5, "deltaT": 2},
    "adalora_to_the_end": {"tinit": 0, "tfinal": 0, "deltaT": 3, "orth_reg_weight": 0.1, "beta1": 0.7, "beta2": 0.9},
}


def write_adalora(name: str, seed: int) -> None:
    """Twenty steps as PEFT documents them: step, update_and_allocate(step from 0), zero_grad."""
    where = WHERE / name
    torch.manual_seed(seed)
    config = AdaLoraConfig(
        init_r=6, target_r=3, lora_alpha=16, lora_dropout=0.0, total_step=STEPS, task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj", "down_proj"], **ADALORA[name],
    )  # fmt: skip
    tuned = get_peft_model(build("llama3"), config)
    with torch.no_grad():
        # E of zero gives A and B no gradient: start as after some training.
        g = generator(seed)
        for n, p in tuned.named_parameters():
            if "lora_E" in n:
                p.copy_(torch.randn(p.shape, generator=g))
            elif "lora_A" in n or "lora_B" in n:
                p.copy_(0.2 * torch.randn(p.shape, generator=g))
    save_adapter(tuned, where / "adapter_init")
    model = to_float64(tuned)
    params = [p for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=2e-2, weight_decay=0.01)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, STEPS)
    rows, tensors = [], {}
    for step, row in enumerate(sequences(seed, STEPS)):
        loss = own_loss(model, row)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        pattern = model.peft_config["default"].rank_pattern
        ranks = {k.replace(".default", ""): v for k, v in pattern.items()} if pattern else None
        rows.append({"loss": float(loss.detach()), "grad_norm": float(norm), "rank_pattern": ranks, **row})
        for n, p in full_tensors(model).items():
            if n.endswith("lora_E"):
                tensors[f"{step}.{n}"] = p.detach().clone()
    tensors.update({f"final.{n}": p for n, p in full_tensors(model).items()})
    save_tensors(where / "expect.safetensors", tensors)
    save_adapter(model.float(), where / "adapter_final")
    again = to_float64(PeftModel.from_pretrained(build("llama3"), where / "adapter_final").eval())
    ids = sequences(seed, 1)[0]["input_ids"][0]
    save_tensors(where / "reloaded.safetensors", {"logits": forward_logits(again, ids)})
    facts = {"base_model": "families/llama3/model", "lr": 2e-2, "weight_decay": 0.01, "max_grad_norm": MAX_GRAD_NORM}
    save_json(where / "expect.json", {**facts, "steps": rows, "versions": versions()})
    print(name, rows[0]["loss"], rows[-1]["loss"], [sum(v) for v in rows[-1]["rank_pattern"].values()])


# Attention hardly feels some elements of a key's bias: their gradients are float32 rounding (1e-8 of 1e-2), which Adam would
# blow up to whole steps with its usual epsilon.
EPSILON = 1e-6


def loraplus(model):
    return create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=2e-3, loraplus_lr_ratio=8, loraplus_lr_embedding=5e-3, loraplus_weight_decay=0.05,
        eps=EPSILON,
    )  # fmt: skip


def embedding_rate(model):
    """Unsloth's rule: modules trained in full have a rate of their own; no decay on biases, as transformers."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    full = [p for n, p in named if n.endswith("modules_to_save.default.weight")]
    rest = [p for n, p in named if not n.endswith("modules_to_save.default.weight")]
    groups = [{"params": rest, "lr": 2e-3}, {"params": full, "lr": 5e-4}]
    return torch.optim.AdamW(groups, weight_decay=0.05, eps=EPSILON)


# name -> (family, optimizer, LoraConfig options)
GROUPS = {
    "loraplus": ("qwen2", loraplus, {"target_modules": ["q_proj", "embed_tokens"], "bias": "all"}),
    "loraplus_dora": ("llama", loraplus, {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "embedding_rate": ("llama", embedding_rate, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
}  # fmt: skip


def write_groups(name: str, seed: int) -> None:
    """Ten steps with groups of parameters that have rates of their own."""
    family, make, options = GROUPS[name]
    where = WHERE / name
    torch.manual_seed(seed)
    tuned = get_peft_model(build(family), lora(**options))
    save_adapter(tuned, where / "adapter_init")
    model = to_float64(tuned)
    optimizer = make(model)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(params) == sum(p.requires_grad for p in model.parameters())
    scheduler = get_linear_schedule_with_warmup(optimizer, 2, 10)
    rows = []
    for row in sequences(seed, 10):
        loss = own_loss(model, row)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        rows.append({"loss": float(loss.detach()), "grad_norm": float(norm), **row})
    save_adapter(model.float(), where / "adapter_final")
    facts = {"base_model": f"families/{family}/model", "adam_epsilon": EPSILON}
    save_json(where / "expect.json", {**facts, "steps": rows, "versions": versions()})
    print(name, rows[0]["loss"], rows[-1]["loss"])


def write_initialisation(name: str, options: dict) -> None:
    """A and B from the base weight, and what is left of it."""
    where = WHERE / "init"
    tuned = get_peft_model(build("llama"), lora(target_modules=["q_proj", "down_proj"], **options))
    tensors = {}
    for n, module in tuned.named_modules():
        if hasattr(module, "lora_A"):
            key = n.removeprefix("base_model.model.")
            tensors[f"{key}.A"] = module.lora_A["default"].weight
            tensors[f"{key}.B"] = module.lora_B["default"].weight
            tensors[f"{key}.base"] = module.get_base_layer().weight
            if "default" in module.lora_magnitude_vector:
                tensors[f"{key}.magnitude"] = module.lora_magnitude_vector["default"].weight
    save_tensors(where / f"{name}.safetensors", tensors)
    print(name, len(tensors))


def write_loftq(iterations: int) -> None:
    """As peft.utils.loftq_utils.loftq_init computes it, whose own code wants a GPU."""
    tensors = {}
    for n, weight in build("llama").named_parameters():
        if not n.endswith(("q_proj.weight", "down_proj.weight")):
            continue
        weight = weight.detach()
        left, right = torch.zeros(weight.shape[0], 4), torch.zeros(4, weight.shape[1])
        for _ in range(iterations):
            packed, state = bnb.quantize_4bit(weight - left @ right, blocksize=64, compress_statistics=False, quant_type="nf4")
            base = bnb.dequantize_4bit(packed, state)
            u, s, vh = torch.linalg.svd(weight - base, full_matrices=False)
            left, right = u[:, :4] * s[:4].sqrt(), s[:4].sqrt()[:, None] * vh[:4]
        key = n.removesuffix(".weight")
        tensors.update({f"{key}.A": right, f"{key}.B": left, f"{key}.base": base})
    save_tensors(WHERE / "init" / f"loftq_{iterations}.safetensors", tensors)
    print("loftq", iterations, len(tensors))


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    for i, name in enumerate(DORA):
        folder, make, options = DORA[name]
        write_gradients(name, folder, make, {"use_dora": True, **options}, 1300 + i)
    for i, name in enumerate(TOKENS):
        write_gradients(name, *TOKENS[name], 1310 + i)
    for i, name in enumerate(ADALORA):
        write_adalora(name, 1320 + i)
    for i, name in enumerate(GROUPS):
        write_groups(name, 1330 + i)
    write_initialisation("pissa", {"init_lora_weights": "pissa"})
    write_initialisation("pissa_dora", {"init_lora_weights": "pissa", "use_dora": True, "use_rslora": True})
    write_initialisation("olora", {"init_lora_weights": "olora"})
    write_loftq(1)
    write_loftq(4)


if __name__ == "__main__":
    main()
