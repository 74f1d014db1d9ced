"""Adapters of peft that touch tied embeddings, whole layers or base weights, and the logits of one sequence (float64)."""

import copy
import shutil

import torch
from common import OUT, forward_logits, save_adapter, save_json, save_tensors, to_float64, versions
from families import make_batch
from lora_variants import randomise_trained
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import build

WHERE = OUT.parent / "peft" / "adapters"
TABLES = ["embed_tokens", "lm_head"]

# name -> (family, LoraConfig options); llama3, qwen2 and gemma2 have tied heads, llama has not
VARIANTS = {
    "tied_saved_embedding": ("llama3", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "tied_saved_head": ("llama3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied_saved_both": ("llama3", {"target_modules": ["q_proj"], "modules_to_save": TABLES}),
    "tied_saved_as_one": (
        "llama3",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "tied_updated_both": ("llama3", {"target_modules": ["q_proj", *TABLES]}),
    "scaled_embedding": ("gemma2", {"target_modules": ["embed_tokens", "v_proj"]}),
    "saved_layers": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["layers.1.mlp", "norm"]}),
    "saved_with_biases": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["k_proj"], "bias": "all"}),
    "other_base": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "other_base_tied": ("llama3", {"target_modules": ["q_proj", "embed_tokens"]}),
}


def write(name: str, seed: int) -> None:
    where = WHERE / name
    family, options = VARIANTS[name]
    tuned = get_peft_model(build(family), LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **options))
    randomise_trained(tuned, seed)
    if name.startswith("other_base"):
        # As when embeddings were resized or trained before: the file's base weight is not the model's.
        with torch.no_grad():
            tuned.get_input_embeddings().base_layer.weight.mul_(1.25)
    tuned.eval()
    save_adapter(tuned, where)
    ids = make_batch(95, seed)["input_ids"][0]
    with torch.no_grad():
        logits = forward_logits(to_float64(copy.deepcopy(tuned)), ids)
        effect = float((forward_logits(build(family), ids) - logits).abs().max())
        again = PeftModel.from_pretrained(build(family), where).eval()
        reload_error = float((forward_logits(again, ids) - logits).abs().max())
    assert effect > 0.05, (name, effect)
    assert reload_error < 1e-4, (name, reload_error)
    save_tensors(where / "expect.safetensors", {"logits": logits})
    trainable, everything = tuned.get_nb_trainable_parameters()
    facts = {"base_model": f"families/{family}/model", "input_ids": ids, "max_change_by_adapter": effect}
    counts = {"trainable_parameters": trainable, "all_parameters": everything}
    save_json(where / "expect.json", {**facts, **counts, "versions": versions()})
    print(f"{name}: changes logits by {effect:.2f}, reloaded within {reload_error:.1e}")


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    for i, name in enumerate(VARIANTS):
        write(name, 920 + i)


if __name__ == "__main__":
    main()
