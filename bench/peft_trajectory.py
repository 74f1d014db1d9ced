"""The steps of bench/gpu/trajectory.mjs with transformers + peft: same model, same adapter, same batches, from --folder.

    python bench/peft_trajectory.py --folder DIR [--dtype bfloat16]

One line "RESULT {json}" with the losses.
"""

import argparse
import json
import os

import peft
import torch
import transformers


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", required=True)
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    a = p.parse_args()
    with open(os.path.join(a.folder, "batches.json"), encoding="utf-8") as f:
        settings = json.load(f)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, a.dtype)
    base = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype, attn_implementation="sdpa")
    model = peft.PeftModel.from_pretrained(base.to(device), os.path.join(a.folder, "adapter"), is_trainable=True)
    model.train()
    trained = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0.0)
    losses = []
    for rows in settings["batches"]:
        longest = max(len(row["ids"]) for row in rows)
        pad = lambda values, fill: torch.tensor([x + [fill] * (longest - len(x)) for x in values], device=device)  # noqa: E731
        ids = pad([row["ids"] for row in rows], 0)
        labels = pad([row["labels"] for row in rows], -100)
        mask = pad([[1] * len(row["ids"]) for row in rows], 0)
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    who = f"transformers {transformers.__version__} + peft {peft.__version__}, {device} {a.dtype}"
    numbers = {"first": losses[0], "lastTenMean": sum(losses[-10:]) / len(losses[-10:]), "losses": losses}
    print("RESULT " + json.dumps({"section": "trajectory", "who": who, **numbers}))


main()
