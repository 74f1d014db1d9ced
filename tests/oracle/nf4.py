"""bitsandbytes NF4 on the CPU: bytes, statistics and decoded values, plain and double-quantised; one saved model."""

import json
import shutil

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.functional import QuantState
from common import OUT, forward_logits, generator, save_json, save_tensors, to_float64, versions
from families import make_batch
from safetensors.torch import load_file
from tiny_models import build
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

WHERE = OUT / "nf4"
NF4 = bnb.get_4bit_type("nf4", device="cpu")


def inputs() -> dict:
    g = generator(400)
    normal = lambda *shape: torch.randn(shape, generator=g)
    zero_block = normal(4, 64)
    zero_block[1] = 0
    zero_tail = normal(1, 96)
    zero_tail[:, 64:] = 0
    scales = torch.tensor([1e30, 1e-30, 3e38, 1e-6]).view(4, 1)
    midpoints = (NF4[:-1] + NF4[1:]) / 2
    above = torch.nextafter(midpoints, torch.tensor(2.0))
    below = torch.nextafter(midpoints, torch.tensor(-2.0))
    ties = torch.cat([midpoints, above, below, torch.tensor([1.0, -1.0, 0.0, -0.0]), NF4[:15]]).view(1, 64)
    return {
        "f32": normal(32, 64) * 0.05,
        "f32_odd": normal(7, 13),
        "f32_row": normal(1, 129),
        "f32_zero_block": zero_block,
        "f32_zero_tail": zero_tail,
        "f32_scales": torch.rand((4, 64), generator=g).mul(2).sub(1) * scales,
        "f32_subnormal": torch.rand((2, 64), generator=g).mul(2).sub(1) * torch.tensor([[1e-37], [1e-39]]),
        "f32_ties": ties,
        "f32_all_zero": torch.zeros(2, 64),
        "bf16": (normal(48, 80) * 0.05).bfloat16(),
        "bf16_odd": normal(5, 37).bfloat16(),
        "bf16_many_blocks": (normal(160, 128) * torch.rand((160, 1), generator=g)).bfloat16(),
        "f16": (normal(8, 72) * 0.05).half(),
    }


def quantised(name: str, a: torch.Tensor, nested: bool) -> dict:
    """Tensors under the key names bitsandbytes uses in a checkpoint, plus the decoded values."""
    packed, state = bnb.quantize_4bit(a, blocksize=64, compress_statistics=nested, quant_type="nf4")
    kind = "nested" if nested else "plain"
    out = {f"{name}.{kind}.weight": packed, f"{name}.{kind}.decoded": bnb.dequantize_4bit(packed, state)}
    for key, value in state.as_dict(packed=True).items():
        out[f"{name}.{kind}.weight.{key}"] = value
    check_decoding(name, packed, state, out[f"{name}.{kind}.decoded"])
    return out


def absmax_of(state: QuantState) -> torch.Tensor:
    if not state.nested:
        return state.absmax
    blocks = torch.arange(len(state.absmax)) // state.state2.blocksize
    return state.state2.code[state.absmax.long()] * state.state2.absmax[blocks] + state.offset


def check_decoding(name: str, packed, state, decoded) -> None:
    """The library's decoder against its plain formula; says where they differ."""
    nibbles = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], 1).view(-1)[: decoded.numel()]
    blocks = torch.arange(decoded.numel()) // state.blocksize
    plain = (NF4[nibbles.long()] * absmax_of(state)[blocks]).to(decoded.dtype)
    wrong = plain != decoded.view(-1)
    if wrong.any():
        worst = ((plain.float() - decoded.view(-1).float()).abs() / plain.float().abs())[wrong].max()
        print(f"  {name}: decoder differs from code*absmax in {int(wrong.sum())} of {len(plain)}, relative {worst:.1e}")


def write_tensors() -> None:
    tensors = {}
    for name, a in inputs().items():
        tensors[f"{name}.input"] = a
        tensors.update(quantised(name, a, nested=False))
        tensors.update(quantised(name, a, nested=True))
    tensors["nf4_code"] = NF4
    tensors["dynamic_map_signed"] = bnb.create_dynamic_map(signed=True)
    tensors["dynamic_map_unsigned"] = bnb.create_dynamic_map(signed=False)
    save_tensors(WHERE / "tensors.safetensors", tensors)


def write_model(dtype: torch.dtype) -> None:
    """The tiny llama3 model, loaded in 4 bits on the CPU by transformers and saved again by it."""
    short = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    folder, plain = WHERE / f"model_{short}", WHERE / "plain"
    shutil.rmtree(folder, ignore_errors=True)
    build("llama3").to(dtype).save_pretrained(plain)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage="uint8",
    )
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=config, dtype=dtype, device_map="cpu", attn_implementation="eager"
    )
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    shutil.rmtree(plain)

    weights = decode_folder(folder)
    double = to_float64(build("llama3"))
    with torch.no_grad():
        for name, p in double.named_parameters():
            p.copy_(weights[name])
    ids = make_batch(101, 401)["input_ids"]
    tensors = {f"logits.{i}": forward_logits(double, seq) for i, seq in enumerate(ids)}
    quantised_names = {k for k in weights if f"{k}.absmax" in load_file(folder / "model.safetensors")}
    tensors.update({f"decoded.{k}": weights[k] for k in sorted(quantised_names)[:3]})
    save_tensors(WHERE / f"expect_{short}.safetensors", tensors)
    own = float((forward_logits(model, ids[0]).double() - tensors["logits.0"]).abs().max())
    save_json(
        WHERE / f"expect_{short}.json",
        {
            "input_ids": ids,
            "precision": "float64 on the decoded weights (decoded in float32, rounded to the stored dtype)",
            "transformers_own_logits_max_abs_difference": own,
            "versions": versions(),
        },
    )


def decode_folder(folder) -> dict:
    """All weights of a saved NF4 model, decoded to the dtype its quant_state names."""
    raw = load_file(folder / "model.safetensors")
    out = {}
    for name, t in raw.items():
        if ".weight." in name:
            continue
        stats = {k.removeprefix(name + "."): v for k, v in raw.items() if k.startswith(name + ".")}
        if stats:
            state = QuantState.from_dict({f"{name}.{k}": v for k, v in stats.items()}, device=torch.device("cpu"))
            t = bnb.dequantize_4bit(t, state)
        out[name] = t
    return out


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    write_tensors()
    for dtype in (torch.float32, torch.bfloat16):
        write_model(dtype)
        print(json.loads((WHERE / f"expect_{'f32' if dtype == torch.float32 else 'bf16'}.json").read_text()))


if __name__ == "__main__":
    main()
