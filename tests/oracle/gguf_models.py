"""The tiny models as llama.cpp's converter stores them, written with gguf-py and checked by running llama.cpp."""

import math
import shutil
import tempfile
from pathlib import Path

import gguf
import numpy as np
from common import OUT, forward_logits
from llama_cpp import Llama
from tiny_models import build

WHERE = OUT / "gguf_models"
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "llama3": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
}


def interleaved(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k in the order of llama.cpp's rotation (convert_hf_to_gguf.py, LlamaModel.permute)."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def llama3_factors(config) -> np.ndarray | None:
    """convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors."""
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return None
    dim, old = config.head_dim, rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def add_config(writer: gguf.GGUFWriter, config) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    if config.model_type in ("gemma2", "mistral"):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        # The converter leaves it out, since every released size has one of two; these tiny models have neither.
        writer.add_attention_scale(config.query_pre_attn_scalar**-0.5)


def write(model, path: Path, kind: gguf.GGMLQuantizationType, arch: gguf.MODEL_ARCH) -> Path:
    """Matrices of `kind` where their rows are whole blocks of it, all else float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    add_config(writer, config)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    factors = llama3_factors(config)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for key, p in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        w = p.numpy()
        if arch == gguf.MODEL_ARCH.LLAMA:
            if ".q_proj." in key:
                w = interleaved(w, config.num_attention_heads)
            if ".k_proj." in key:
                w = interleaved(w, config.num_key_value_heads)
        if config.model_type == "gemma2" and key.endswith("norm.weight"):
            w = w + 1
        stem, suffix = key.rsplit(".", 1)
        fits = w.ndim == 2 and w.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        type_ = kind if fits else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", gguf.quants.quantize(w, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def check(name: str) -> None:
    """llama.cpp itself, reading what `write` writes, must give the original's logits."""
    # It scales Gemma 2's scores by the width of a head, whatever the file says.
    overrides = {"query_pre_attn_scalar": 12} if name == "gemma2" else {}
    ids = [1, 12, 84, 93, 10, 34, 34, 52, 73, 32, 82, 33, 89]
    model = build(name, **overrides)
    with tempfile.TemporaryDirectory() as folder:
        path = write(model, Path(folder) / "check.gguf", gguf.GGMLQuantizationType.F32, ARCHITECTURES[name])
        llama = Llama(str(path), logits_all=True, n_ctx=128, n_threads=1, verbose=False, type_k=0, type_v=0)
        llama.eval(ids)
        got = np.array(llama.scores[: len(ids)])
    want = forward_logits(model, ids).detach().numpy()
    error = float(np.abs(got - want).max() / np.abs(want).max())
    # Its GeLU comes from a table of half-precision numbers.
    assert error < (1e-3 if name == "gemma2" else 1e-5), (name, error)
    print(name, "in llama.cpp: relative error", error)


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    WHERE.mkdir(parents=True)
    for name, arch in ARCHITECTURES.items():
        # llama.cpp has no window for what it calls llama.
        if name != "mistral":
            check(name)
        write(build(name), WHERE / f"{name}-f32.gguf", gguf.GGMLQuantizationType.F32, arch)
    write(build("llama"), WHERE / "llama-q8_0.gguf", gguf.GGMLQuantizationType.Q8_0, ARCHITECTURES["llama"])


if __name__ == "__main__":
    main()
