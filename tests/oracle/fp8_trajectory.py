"""Losses of fifty LoRA steps of the embedded model whose frozen products are in emulated row-wise e4m3.

    node bench/gpu/trajectory.mjs --prepare --folder DIR
    python tests/oracle/fp8_trajectory.py DIR

Not a part of make_all.py: it takes the batches and the adapter from DIR. One training's losses move by chance as much as
by e4m3 (whatever is rounded otherwise, once, moves all steps after it), so there are six: each begins at another batch. Rounding is PyTorch's float8_e4m3fn, sums are
float32; the model and its other products are transformers' and peft's in float32. Two emulations say how much of a
trajectory is e4m3's and how much is chance: in "float32" nothing else is rounded, in "bfloat16" also what goes into and
comes out of the frozen products and their gradients, as a training in bfloat16 does. "everywhere": all frozen products;
"inner": but for those of the first and the last layer, which lose most.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from common import OUT, save_json, versions
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

MODEL = Path(__file__).resolve().parent.parent.parent / "models" / "tiny-math"
LARGEST = 448.0
# The batch that a training begins with; after the last one come those before it.
STARTS = [0, 8, 16, 24, 32, 40]


def through_e4m3(x: torch.Tensor, whole: bool = False) -> torch.Tensor:
    """A matrix after e4m3 with a scale for each row, or one for the whole: the largest magnitude becomes 448."""
    top = x.abs().amax() if whole else x.abs().amax(-1, keepdim=True)
    scale = torch.where(top > 0, top / LARGEST, torch.ones_like(top))
    # The cast itself does not saturate.
    codes = (x * (1 / scale)).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return codes.float() * scale


class Product(torch.autograd.Function):
    """x·Wᵀ and, backward, dy·W, all four operands in e4m3; `after` rounds what is around them."""

    @staticmethod
    def forward(ctx, x, rows, whole, after):
        ctx.whole, ctx.after = whole, after
        flat = after(x.flatten(0, 1))
        return after(through_e4m3(flat) @ rows.T).unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx, dy):
        flat = ctx.after(dy.flatten(0, 1))
        return ctx.after(through_e4m3(flat) @ ctx.whole).unflatten(0, dy.shape[:2]), None, None, None


def emulate(layer: torch.nn.Linear, after) -> None:
    weight = layer.weight.detach()
    rows, whole = through_e4m3(weight), through_e4m3(weight, whole=True)

    def forward(x):
        y = Product.apply(x, rows, whole, after)
        return y if layer.bias is None else after(y + layer.bias)

    layer.forward = forward


def train(folder: Path, settings: dict, start: int, after, inner: bool = False) -> list[float]:
    """`after` None: nothing is emulated."""
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).train()
    edges = ("layers.0.", f"layers.{base.config.num_hidden_layers - 1}.") if inner else ()
    for name, module in model.named_modules():
        if after and name.endswith("base_layer") and not any(edge in name for edge in edges):
            emulate(module, after)
    trained = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0.0)
    losses = []
    batches = settings["batches"]
    for rows in batches[start:] + batches[:start]:
        longest = max(len(row["ids"]) for row in rows)

        def padded(values: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([x + [fill] * (longest - len(x)) for x in values])

        ids = padded([row["ids"] for row in rows], 0)
        labels = padded([row["labels"] for row in rows], -100)
        mask = padded([[1] * len(row["ids"]) for row in rows], 0)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 5))
    return losses


def main() -> None:
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "batches.json").read_text())
    plain = json.dumps(settings["batches"], separators=(",", ":")).encode()
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    adapter = b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
    roundings = {"float32": lambda x: x, "bfloat16": lambda x: x.bfloat16().float()}
    losses = []
    for start in STARTS:
        one = {"start": start, "none": train(folder, settings, start, None)}
        for where in ("everywhere", "inner"):
            one[where] = {
                name: train(folder, settings, start, after, where == "inner") for name, after in roundings.items()
            }
        losses.append(one)
        print(start, {where: one[where]["bfloat16"][-1] for where in ("everywhere", "inner")}, flush=True)
    digests = {"batches": hashlib.sha256(plain).hexdigest(), "adapter": hashlib.sha256(adapter).hexdigest()}
    about = {"learning_rate": settings["learning_rate"], "max_grad_norm": 1.0, "sha256": digests, "losses": losses}
    save_json(OUT / "fp8" / "trajectory.json", {**about, "versions": versions()})


main()
