"""Shared by all oracle scripts: paths, seeding, file writing, and a true float64 mode for transformers."""

import json
import logging
import os
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")

import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
logging.getLogger("accelerate").setLevel(logging.ERROR)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
warnings.filterwarnings("ignore")

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "oracle"


def versions() -> dict:
    """Versions of the libraries that wrote a fixture; stored beside it."""
    import importlib.metadata as md

    names = ["torch", "transformers", "peft", "bitsandbytes", "safetensors", "gguf", "numpy"]
    return {name: md.version(name) for name in names}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def save_tensors(path: Path, tensors: dict) -> None:
    """Write a safetensors file; float64 values are rounded once to float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = {}
    for name, t in tensors.items():
        t = t.detach()
        out[name] = (t.float() if t.dtype == torch.float64 else t).contiguous().clone()
    save_file(out, str(path), metadata={"format": "pt"})


def _compact(value, indent: int) -> str:
    """JSON with one line per key, but lists of plain values on one line."""
    pad = "  " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(str(k))}: {_compact(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * indent + "}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        rows = [pad + _compact(v, indent + 1) for v in value]
        return "[\n" + ",\n".join(rows) + "\n" + "  " * indent + "]"
    return json.dumps(value)


def save_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_compact(value, 0) + "\n")


class Float64(TorchFunctionMode):
    """Inside this mode every request for float32 gives float64.

    transformers computes norms, softmax and rotary tables in float32 whatever the model's dtype; with a
    double model and this mode the whole reference is float64.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        swap = lambda v: torch.float64 if v is torch.float32 else v
        args = tuple(swap(a) for a in args)
        kwargs = {k: swap(v) for k, v in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*args, **kwargs)


def to_float64(model):
    """model.double(), with the rotary tables computed again in float64. Returns the same model."""
    model.double()
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RotaryEmbedding"):
                with Float64():
                    setattr(parent, name, type(child)(config=child.config).double())
    return model


def forward_logits(model, ids: list[int]) -> torch.Tensor:
    """Logits [T, vocab] of one unpadded sequence, in the model's own dtype."""
    x = torch.tensor([ids])
    if next(model.parameters()).dtype == torch.float64:
        with Float64():
            return model(input_ids=x, use_cache=False).logits[0]
    return model(input_ids=x, use_cache=False).logits[0]


def loss_sum(logits: torch.Tensor, labels: list[int]) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy of logits[t] against labels[t + 1], -100 ignored, and the number of targets."""
    target = torch.tensor(labels)[1:]
    total = torch.nn.functional.cross_entropy(logits[:-1], target, ignore_index=-100, reduction="sum")
    return total, int((target != -100).sum())


def batch_loss(model, batch: dict, logits_out: list | None = None) -> tuple[torch.Tensor, int]:
    """sum CE / N over all sequences of {"input_ids": [[...]], "labels": [[...]]}, each run unpadded."""
    total, count = 0, 0
    for ids, labels in zip(batch["input_ids"], batch["labels"]):
        logits = forward_logits(model, ids)
        if logits_out is not None:
            logits_out.append(logits.detach())
        s, n = loss_sum(logits, labels)
        total, count = total + s, count + n
    return total / count, count


def save_adapter(tuned, folder: Path) -> None:
    """peft's own save_pretrained, made reproducible: no model card, sets of module names sorted."""
    for config in tuned.peft_config.values():
        config.base_model_name_or_path = config.base_model_name_or_path or "tiny"
    tuned.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    data = json.loads(path.read_text())
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(data.get(key), list):
            data[key].sort()
    path.write_text(json.dumps(data, indent=2, sort_keys=True))
