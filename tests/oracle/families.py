"""Per family: model, config, logits, loss and gradients, with and without LoRA (transformers + peft, float64)."""

import copy
import shutil

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
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_models import LINEARS, build, configs, legacy_config, randomise_lora
from transformers import AutoModelForCausalLM

CONVENTIONS = {
    "logits.<i>": "[T_i, vocab] base model, sequence i run alone without padding",
    "hidden.<k>": "[T_0, hidden] sequence 0: k = 0 the (scaled) embeddings, then after layer k; the last is normed",
    "full_grad.<name>": "gradient of the base loss for <name> of model.safetensors (a tied head adds to embed_tokens)",
    "lora_logits.<i>": "[T_i, vocab] with the adapter",
    "grad.<name>": "gradient of the loss with the adapter, for tensor <name> of adapter_model.safetensors",
    "loss": "sum over all sequences of CE(logits[t], labels[t + 1]) where labels[t + 1] != -100, over target_tokens",
    "precision": "computed wholly in float64 from the stored float32 (or bfloat16) weights, rounded once to float32",
}


def make_batch(vocab: int, seed: int, lengths=(13, 9, 6)) -> dict:
    g = generator(seed)
    ids = [[1] + torch.randint(3, vocab, (n - 1,), generator=g).tolist() for n in lengths]
    labels = copy.deepcopy(ids)
    for t in (3, 4, 8):
        labels[0][t] = -100
    labels[1][:4] = [-100] * 4
    return {"input_ids": ids, "labels": labels}


def references(model, batch: dict, prefix: str, f32_model) -> tuple[dict, dict]:
    """Logits and loss in float64, and how far the same library's float32 is from them."""
    logits = []
    loss, count = batch_loss(model, batch, logits)
    loss.backward()
    with torch.no_grad():
        low = [forward_logits(f32_model, ids) for ids in batch["input_ids"]]
    error = max(float((a - b).abs().max()) for a, b in zip(logits, low))
    scale = max(float(a.abs().max()) for a in logits)
    numbers = {"loss": float(loss.detach()), "max_abs_logit": scale, "pytorch_float32_max_abs_error": error}
    return {f"{prefix}.{i}": t for i, t in enumerate(logits)}, {**numbers, "target_tokens": count}


def hidden_states(model, ids: list[int]) -> dict:
    with torch.no_grad(), Float64():
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return {f"hidden.{k}": h[0] for k, h in enumerate(out.hidden_states)}


def write_family(name: str, seed: int) -> None:
    where = OUT / "families" / name
    shutil.rmtree(where, ignore_errors=True)
    model = build(name)
    model.save_pretrained(where / "model", max_shard_size="1GB")
    (where / "model" / "generation_config.json").unlink(missing_ok=True)
    save_json(where / "config.v4.json", legacy_config(model.config))
    batch = make_batch(model.config.vocab_size, seed)

    base = to_float64(copy.deepcopy(model))
    tensors, base_numbers = references(base, batch, "logits", model)
    tensors.update(hidden_states(base, batch["input_ids"][0]))
    for key, p in base.named_parameters():
        tensors[f"full_grad.{key}"] = p.grad

    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    randomise_lora(tuned, seed + 1)
    save_adapter(tuned, where / "adapter")
    double = to_float64(copy.deepcopy(tuned))
    lora, lora_numbers = references(double, batch, "lora_logits", tuned)
    tensors.update(lora)
    tensors.update(adapter_gradients(double, where / "adapter"))

    save_tensors(where / "expect.safetensors", tensors)
    notes = {"tensors": CONVENTIONS, "versions": versions()}
    save_json(
        where / "expect.json", {"family": name, "batch": batch, "base": base_numbers, "lora": lora_numbers, **notes}
    )
    print(name, base_numbers, lora_numbers)


def adapter_gradients(tuned, folder) -> dict:
    saved = set(load_file(folder / "adapter_model.safetensors"))
    grads = {n.replace(".default.", "."): p.grad for n, p in tuned.named_parameters() if p.grad is not None}
    assert set(grads) == saved, set(grads) ^ saved
    return {f"grad.{n}": g for n, g in grads.items()}


def write_bf16_shards() -> None:
    """The llama model in bfloat16, two shards with an index, as hub models come."""
    where = OUT / "families" / "llama_bf16_sharded"
    shutil.rmtree(where, ignore_errors=True)
    model = build("llama").to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(where / "model", max_shard_size="36KB")
    (where / "model" / "generation_config.json").unlink(missing_ok=True)
    assert len(list((where / "model").glob("*.safetensors"))) == 2, list((where / "model").iterdir())
    loaded = AutoModelForCausalLM.from_pretrained(where / "model", dtype=torch.float32, attn_implementation="eager")
    batch = make_batch(model.config.vocab_size, 11)
    tensors, numbers = references(to_float64(copy.deepcopy(loaded)), batch, "logits", loaded)
    save_tensors(where / "expect.safetensors", tensors)
    notes = {"tensors": CONVENTIONS, "versions": versions()}
    save_json(where / "expect.json", {"family": "llama", "batch": batch, "base": numbers, **notes})


def check_features_matter() -> None:
    """Switching a family's feature off must change its logits, or the fixture would prove nothing."""
    changes = {
        "llama3": {"rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}},
        "mistral": {"sliding_window": None},
        "gemma2": {"attn_logit_softcapping": None},
    }
    for name, change in changes.items():
        ids = make_batch(90, 5)["input_ids"][0]
        plain, changed = build(name), build(name, **change)
        difference = float((forward_logits(plain, ids) - forward_logits(changed, ids)).abs().max())
        assert difference > 1e-2, (name, change, difference)
    full = build("gemma2", layer_types=["full_attention"] * 4)
    ids = make_batch(90, 5)["input_ids"][0]
    assert float((forward_logits(full, ids) - forward_logits(build("gemma2"), ids)).abs().max()) > 1e-2


def main() -> None:
    check_features_matter()
    for i, name in enumerate(configs()):
        write_family(name, 10 + 2 * i + 1)
    write_bf16_shards()


if __name__ == "__main__":
    main()
