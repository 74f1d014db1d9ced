"""Adapters peft writes for its LoRA options, and the logits of one sequence with each (float64)."""

import copy
import shutil

import torch
from common import OUT, forward_logits, generator, save_adapter, save_json, save_tensors, to_float64, versions
from families import make_batch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import LINEARS, build

WHERE = OUT / "lora_variants"
PATTERN = r".*layers\.\d\.(self_attn\.(q|v)_proj|mlp\.down_proj)"

# name -> (family, LoraConfig options)
VARIANTS = {
    "rslora": ("qwen2", {"use_rslora": True, "target_modules": LINEARS}),
    "patterns": (
        "qwen2",
        {
            "target_modules": LINEARS,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6, r"layers\.\d\.self_attn\.o_proj": 3},
            "alpha_pattern": {"q_proj": 16, "model.layers.0.mlp.up_proj": 3},
        },
    ),
    "rslora_patterns": (
        "qwen2",
        {
            "use_rslora": True,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"v_proj": 9},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "bias_all": ("qwen2", {"bias": "all", "target_modules": ["q_proj", "o_proj"]}),
    "bias_lora_only": ("qwen2", {"bias": "lora_only", "target_modules": ["q_proj", "o_proj"]}),
    "modules_to_save": ("llama", {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]}),
    "layers_to_transform": ("qwen2", {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}),
    "regex": ("qwen2", {"target_modules": PATTERN}),
    "all_linear": ("llama", {"target_modules": "all-linear"}),
    "exclude": ("qwen2", {"target_modules": LINEARS, "exclude_modules": ["o_proj", "k_proj"]}),
    "embedding_untied": ("llama", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
    "embedding_tied": ("qwen2", {"target_modules": ["embed_tokens", "q_proj"]}),
    "dora": ("qwen2", {"use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
    "adalora": ("qwen2", {"target_modules": ["q_proj", "down_proj"]}),
}
MERGED = ("rslora_patterns", "modules_to_save", "dora")


def randomise_trained(model, seed: int) -> None:
    """Every trainable tensor random: small LoRA factors, biases and copies moved, DoRA magnitudes scaled."""
    g = generator(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad or "ranknum" in name:
                continue
            noise = torch.randn(p.shape, generator=g)
            if "lora_magnitude" in name:
                p.mul_(1 + 0.2 * noise)
            elif "lora_" in name:
                p.copy_(0.5 * noise * p.shape[-1] ** -0.5)
            else:
                p.add_(0.3 * noise)


def configure(name: str):
    family, options = VARIANTS[name]
    if name == "adalora":
        config = AdaLoraConfig(init_r=5, target_r=3, lora_alpha=8, total_step=100, task_type="CAUSAL_LM", **options)
    else:
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **options)
    return family, get_peft_model(build(family), config)


def write(name: str, seed: int) -> None:
    where = WHERE / name
    family, tuned = configure(name)
    randomise_trained(tuned, seed)
    tuned.eval()
    save_adapter(tuned, where)
    ids = make_batch(95, seed)["input_ids"][0]
    base = build(family)
    with torch.no_grad():
        double = to_float64(copy.deepcopy(tuned))
        logits = forward_logits(double, ids)
        effect = float((forward_logits(base, ids) - logits).abs().max())
        again = PeftModel.from_pretrained(build(family), where).eval()
        reload_error = float((forward_logits(again, ids) - logits).abs().max())
    assert effect > 0.05, (name, effect)
    assert reload_error < 1e-4, (name, reload_error)
    save_tensors(where / "expect.safetensors", {"logits": logits})
    keys = {k: list(v.shape) for k, v in sorted(load_file(where / "adapter_model.safetensors").items())}
    facts = {"base_model": f"families/{family}/model", "input_ids": ids, "max_change_by_adapter": effect}
    trainable = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    save_json(
        where / "expect.json",
        {**facts, "trainable_parameters": trainable, "adapter_tensors": keys, "versions": versions()},
    )
    print(f"{name}: {len(keys)} tensors, changes logits by {effect:.2f}, reloaded within {reload_error:.1e}")
    if name in MERGED:
        merged = double.merge_and_unload()
        with torch.no_grad():
            difference = float((forward_logits(merged, ids) - logits).abs().max())
        assert difference < 1e-9, (name, difference)
        save_tensors(where / "merged.safetensors", changed(merged, base))


def changed(merged, base) -> dict:
    """Only the parameters that merging changed."""
    before = dict(base.named_parameters())
    return {n: p for n, p in merged.named_parameters() if not torch.equal(p.float(), before[n])}


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    for i, name in enumerate(VARIANTS):
        write(name, 820 + i)


if __name__ == "__main__":
    main()
