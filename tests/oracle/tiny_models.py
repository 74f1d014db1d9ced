"""Tiny random models, one per family, with every feature of the family switched on so that it matters."""

import torch
from common import generator
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers import AutoModelForCausalLM

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPE = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 128}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rope(theta: float, **scaling) -> dict:
    return {"rope_theta": theta, "rope_type": "default", **scaling}


# Wavelengths of the llama3 model (head_dim 12, theta 5000) are 6.3, 26, 107, 444, 1836, 7591: with original
# length 64 the first is kept, the second interpolated, the others divided by the factor.
LLAMA3_ROPE = rope(
    5000.0,
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)


def configs() -> dict:
    return {
        "llama": LlamaConfig(
            vocab_size=97, hidden_size=32, intermediate_size=88, rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters=rope(10000.0), **SHAPE, **TOKENS,
        ),
        "llama3": LlamaConfig(
            vocab_size=101, hidden_size=48, intermediate_size=88, rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters=dict(LLAMA3_ROPE), **SHAPE, **TOKENS,
        ),
        "mistral": MistralConfig(
            vocab_size=103, hidden_size=32, intermediate_size=72, rms_norm_eps=1e-6, tie_word_embeddings=False,
            sliding_window=5, head_dim=8, rope_parameters=rope(1000.0), **SHAPE, **TOKENS,
        ),
        "qwen2": Qwen2Config(
            vocab_size=107, hidden_size=40, intermediate_size=88, rms_norm_eps=1e-6, tie_word_embeddings=True,
            use_sliding_window=False, rope_parameters=rope(100000.0), **SHAPE, **TOKENS,
        ),
        "qwen3": Qwen3Config(
            vocab_size=109, hidden_size=40, intermediate_size=76, rms_norm_eps=1e-6, tie_word_embeddings=False,
            head_dim=16, rope_parameters=rope(1000000.0), **SHAPE, **TOKENS,
        ),
        "gemma2": Gemma2Config(
            vocab_size=113, hidden_size=40, intermediate_size=92, rms_norm_eps=1e-6, tie_word_embeddings=True,
            head_dim=12, query_pre_attn_scalar=20, sliding_window=4, attn_logit_softcapping=3.0,
            final_logit_softcapping=5.0, rope_parameters=rope(10000.0), **{**SHAPE, "num_hidden_layers": 4}, **TOKENS,
        ),
    }  # fmt: skip


def randomise(model, seed: int) -> None:
    """Every parameter random: linears N(0, 1/in), norms 1 ± 0.5 (Gemma: 0 ± 0.5), biases N(0, 0.09)."""
    g = generator(seed)
    gemma = model.config.model_type.startswith("gemma")
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(torch.rand(p.shape, generator=g) - 0.5 + (0.0 if gemma else 1.0))
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
            elif "embed_tokens" in name:
                # A tied head multiplies by the same matrix: keep its logits of order one to three.
                p.copy_(torch.randn(p.shape, generator=g) * (2.0 * p.shape[1] ** -0.5 if tied else 0.7))
            else:
                p.copy_(torch.randn(p.shape, generator=g) * 1.3 * p.shape[1] ** -0.5)


def build(name: str, seed: int | None = None, **overrides):
    """A float32 model with eager attention and seeded random weights."""
    config = configs()[name]
    for key, value in overrides.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    randomise(model, seed if seed is not None else 1000 + list(configs()).index(name))
    return model.eval()


def randomise_lora(model, seed: int) -> None:
    """Non-zero A and B, so that the adapter changes the output and both have gradients."""
    g = generator(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=g) * (p.shape[-1] ** -0.5))


def legacy_config(config) -> dict:
    """The same config with the keys transformers 4 wrote: rope_theta, rope_scaling, torch_dtype."""
    out = config.to_dict()
    params = dict(out.pop("rope_parameters"))
    out["rope_theta"] = params.pop("rope_theta")
    kind = params.pop("rope_type")
    out["rope_scaling"] = None if kind == "default" else {**params, "rope_type": kind}
    out["torch_dtype"] = out.pop("dtype", "float32")
    out.pop("layer_types", None)
    if config.model_type in ("llama", "qwen2"):
        out.pop("head_dim", None)
    out["transformers_version"] = "4.45.0"
    noise = ("output_", "return_dict", "chunk_size", "is_encoder", "id2label", "label2id", "problem_type", "_")
    return {k: v for k, v in out.items() if not k.startswith(noise)}
