"""bitsandbytes' AdamW8bit kernel, run on an NVIDIA GPU: five steps, every midpoint of the maps, broken gradients.

Not part of make_all.py, which needs no GPU. Start values, gradients and maps are those of optimizers.py.
"""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # before common, which hides the GPUs from the other scripts

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import torch
from common import OUT, save_json, save_tensors
from safetensors.torch import load_file

WHERE = OUT / "adamw8bit"
SOURCE = load_file(OUT / "optimizers" / "adamw.safetensors")
MAPS = SOURCE["qmap1"].cuda(), SOURCE["qmap2"].cuda()
LR, EPS = 1e-2, 1e-8


def fresh(p: torch.Tensor) -> dict:
    zeros = lambda k, dtype: torch.zeros(k, dtype=dtype, device="cuda")
    n, blocks = p.numel(), -(-p.numel() // 256)
    state = {"p": p.clone().cuda(), "state1": zeros(n, torch.uint8), "state2": zeros(n, torch.uint8)}
    return {**state, "absmax1": zeros(blocks, torch.float32), "absmax2": zeros(blocks, torch.float32)}


def step(s: dict, grad: torch.Tensor, t: int, betas=(0.9, 0.999), weight_decay=0.1, scale=1.0) -> dict:
    """One step in place. Returns copies of everything the kernel wrote."""
    moments = s["p"], s["state1"], s["state2"]
    numbers = *betas, 0.0, 0.0, EPS, t, LR
    scales = s["absmax1"], s["absmax2"]
    rest = {"weight_decay": weight_decay, "gnorm_scale": scale}
    bnb.optimizer_update_8bit_blockwise("adam", grad.cuda(), *moments, *numbers, *MAPS, *scales, **rest)
    torch.cuda.synchronize()
    return {key: value.cpu().clone() for key, value in s.items()}


def five_steps() -> dict:
    s, out = fresh(SOURCE["odd.start"]), {}
    for t in range(1, 6):
        wrote = step(s, SOURCE[f"odd.grad.{t}"].float(), t)
        out.update({f"odd.{t}.{key}": value for key, value in wrote.items()})
    return out


def midpoints() -> dict:
    """With both betas 0 a step makes m = g and v = g²: gradients at, just above and just below each midpoint of map 1."""
    qmap = SOURCE["qmap1"].numpy()
    middle = ((qmap[:-1] + qmap[1:]) * np.float32(0.5)).astype(np.float32)
    out = {}
    for where, towards in (("at", 0), ("above", 2), ("below", -2)):
        grad = middle if towards == 0 else np.nextafter(middle, np.float32(towards))
        grad = torch.from_numpy(np.append(grad, np.float32(1)))  # the block's largest magnitude is 1
        wrote = step(fresh(torch.zeros(256)), grad, 1, betas=(0.0, 0.0), weight_decay=0.0)
        out[f"ties.{where}.grad"] = grad
        out.update({f"ties.{where}.{key}": value for key, value in wrote.items()})
    return out


def broken() -> dict:
    normal = lambda seed: torch.randn(600, generator=torch.Generator().manual_seed(seed))
    start, first, second = normal(2), normal(3), normal(1)
    first[512:] = 0
    second[5], second[6], second[300] = float("nan"), float("inf"), -float("inf")
    s, out = fresh(start), {"broken.start": start, "broken.grad.1": first, "broken.grad.2": second}
    out.update({f"broken.1.{key}": value for key, value in step(s, first, 1).items()})
    out.update({f"broken.2.{key}": value for key, value in step(s, second, 2, scale=0.25).items()})
    return out


def main() -> None:
    save_tensors(WHERE / "gpu.safetensors", {**five_steps(), **midpoints(), **broken()})
    versions = {"torch": torch.__version__, "bitsandbytes": bitsandbytes.__version__}
    save_json(WHERE / "gpu.json", {"device": torch.cuda.get_device_name(0), "versions": versions})


if __name__ == "__main__":
    main()
