"""Five steps of AdamW8bit (the library's CPU kernel, and the CUDA rule transcribed) and of torch AdamW."""

import shutil

import adamw8bit_rule
import bitsandbytes as bnb
import numpy as np
import torch
from common import OUT, generator, save_json, save_tensors, versions

WHERE = OUT / "optimizers"
STEPS = 5
HYPER = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
SIZES = {"even": 8192, "odd": 4133, "small": 1000}


def problem(name: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Start values and gradients. Gradients are bfloat16 values, blockwise of very different size, one block zero."""
    n = SIZES[name]
    g = generator(500 + n)
    p = torch.randn(n, generator=g)
    scale = 10.0 ** (torch.arange(n) // 256 % 7 - 5)
    if n > 600:
        scale[256:512] = 0
    grads = [(torch.randn(n, generator=g) * scale).bfloat16() for _ in range(STEPS)]
    return p, grads


def run(name: str, make) -> list[tuple[torch.Tensor, dict]]:
    start, grads = problem(name)
    p = torch.nn.Parameter(start.clone())
    optimizer = make([p])
    history = []
    for grad in grads:
        p.grad = grad.float()
        optimizer.step()
        state = {k: v.clone() for k, v in optimizer.state[p].items() if torch.is_tensor(v)}
        history.append((p.detach().clone(), state))
    return history


def library_adamw8bit(name: str) -> dict:
    out = {}
    for t, (p, state) in enumerate(run(name, lambda ps: bnb.optim.AdamW8bit(ps, **HYPER)), 1):
        out[f"{name}.adamw8bit_cpu.{t}.p"] = p
        for key in ("state1", "state2", "absmax1", "absmax2"):
            if key in state:
                out[f"{name}.adamw8bit_cpu.{t}.{key}"] = state[key]
    return out


def rule_adamw8bit(name: str, qmap1: np.ndarray, qmap2: np.ndarray) -> dict:
    start, grads = problem(name)
    n, blocks = len(start), -(-len(start) // adamw8bit_rule.BLOCK)
    p = start.numpy()
    state = tuple(np.zeros(k, t) for k, t in [(n, np.uint8), (blocks, np.float32)] * 2)
    out = {}
    for t, grad in enumerate(grads, 1):
        p, state = adamw8bit_rule.step(p, grad.float().numpy(), state, t, qmap1, qmap2, **HYPER)
        for key, value in zip(("p", "state1", "absmax1", "state2", "absmax2"), (p, *state)):
            out[f"{name}.adamw8bit.{t}.{key}"] = torch.from_numpy(value.copy())
    return out


def torch_adamw(name: str) -> dict:
    out = {}
    for t, (p, state) in enumerate(run(name, lambda ps: torch.optim.AdamW(ps, **HYPER)), 1):
        out[f"{name}.adamw.{t}.p"] = p
        out[f"{name}.adamw.{t}.exp_avg"] = state["exp_avg"]
        out[f"{name}.adamw.{t}.exp_avg_sq"] = state["exp_avg_sq"]
    return out


NOTES = {
    "<size>.adamw8bit.<t>": "numpy transcription of the CUDA kernel's rule (adamw8bit_rule.py), not the library: "
    "decay after the update, midpoint codes, m keeps its sign. Stepped from the states an H100 wrote (adamw8bit/gpu) "
    "it gives the same bytes but for one neighbour in five steps of 4133 elements, and p within 5e-7; it differs "
    "where the kernel breaks exact ties upwards, and in all-zero blocks (code 0 here; the GPU has 0 or 255, times 0). "
    "Start each step from the stored state of step t - 1: one ulp may move a byte to its neighbour",
    "<size>.adamw8bit_cpu.<t>": "bitsandbytes AdamW8bit run on the CPU: decay BEFORE the update, no sign correction, "
    "and codes looked up on a grid of about 3e-5, so up to a few percent of its bytes are not the nearest code",
    "small.adamw8bit_cpu.<t>": "below min_8bit_size: state1 and state2 are float32 moments; exact",
    "<size>.adamw.<t>": "torch.optim.AdamW",
    "qmap1, qmap2": "the signed and unsigned dynamic maps used here",
    "grads": "bfloat16 values; the second block of 256 is zero throughout",
}


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    out = {
        "qmap1": bnb.functional.create_dynamic_map(signed=True),
        "qmap2": bnb.functional.create_dynamic_map(signed=False),
    }
    for name in SIZES:
        start, grads = problem(name)
        out[f"{name}.start"] = start
        out.update({f"{name}.grad.{t}": grad for t, grad in enumerate(grads, 1)})
        if name != "small":
            out.update(rule_adamw8bit(name, out["qmap1"].numpy(), out["qmap2"].numpy()))
        if name != "even":
            out.update(library_adamw8bit(name))
    out.update(torch_adamw("small"))
    save_tensors(WHERE / "adamw.safetensors", out)
    facts = {"sizes": SIZES, "blocksize": 256, "min_8bit_size": 4096, "notes": NOTES, "versions": versions()}
    hyper = {**HYPER, "betas": list(HYPER["betas"])}
    save_json(WHERE / "adamw.json", {"hyperparameters": hyper, "steps": STEPS, **facts})


if __name__ == "__main__":
    main()
