"""Learning-rate factors of every transformers scheduler: the rate used for each update, over the base rate."""

import shutil

import torch
from common import OUT, save_json, versions
from transformers import get_scheduler

WHERE = OUT / "schedules"
STEPS = 30

# name, warm-up steps, scheduler_specific_kwargs
CASES = [
    ("linear", 0, {}),
    ("linear", 5, {}),
    ("cosine", 0, {}),
    ("cosine", 5, {}),
    ("cosine_with_restarts", 4, {}),
    ("cosine_with_restarts", 4, {"num_cycles": 3}),
    ("polynomial", 5, {}),
    ("polynomial", 5, {"power": 2.0, "lr_end": 1e-5}),
    ("constant", 0, {}),
    ("constant_with_warmup", 6, {}),
    ("inverse_sqrt", 5, {}),
    ("inverse_sqrt", 0, {"timescale": 9}),
    ("cosine_with_min_lr", 5, {"min_lr": 1e-4}),
    ("cosine_with_min_lr", 5, {"min_lr_rate": 0.2, "num_cycles": 1.0}),
    ("cosine_warmup_with_min_lr", 5, {"min_lr_rate": 0.1, "warmup_lr_rate": 0.05}),
    ("warmup_stable_decay", 5, {"num_decay_steps": 10}),
    (
        "warmup_stable_decay",
        4,
        {"num_decay_steps": 8, "min_lr_ratio": 0.1, "warmup_type": "cosine", "decay_type": "linear"},
    ),
]
BASE_RATE = 2e-3


def factors(name: str, warmup: int, kwargs: dict) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE_RATE)
    scheduler = get_scheduler(name, optimizer, warmup, STEPS, scheduler_specific_kwargs=kwargs)
    out = []
    for _ in range(STEPS + 3):
        out.append(scheduler.get_last_lr()[0] / BASE_RATE)
        optimizer.step()
        scheduler.step()
    return out


PLATEAU_METRICS = [3.0, 2.5, 2.4999, 2.5, 2.6, 2.2, 2.2, 2.2, 2.2, 2.2, 2.2, 2.3, 2.3, 1.9, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
PLATEAU_CASES = [
    {},
    {"patience": 1},
    {"patience": 1, "factor": 0.5, "cooldown": 2},
    {"patience": 0, "threshold": 0.2, "threshold_mode": "abs", "min_lr": 1e-4},
    {"patience": 0, "factor": 0.9, "eps": 1e-4},
    {"mode": "max", "patience": 2, "factor": 0.3},
    {"mode": "max", "patience": 1, "threshold": 0.3, "threshold_mode": "abs"},
]


def plateau_rates(kwargs: dict) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE_RATE)
    scheduler = get_scheduler("reduce_lr_on_plateau", optimizer, scheduler_specific_kwargs=kwargs)
    rates = []
    for metric in PLATEAU_METRICS:
        scheduler.step(metric)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    rows = [{"name": n, "warmup_steps": w, "kwargs": k, "factors": factors(n, w, k)} for n, w, k in CASES]
    notes = "factors[t] is the rate of update t (from 0) over base_rate; three more than total_steps, to show the tail"
    save_json(
        WHERE / "schedules.json",
        {"total_steps": STEPS, "base_rate": BASE_RATE, "notes": notes, "cases": rows, "versions": versions()},
    )
    plateau = [{"kwargs": kwargs, "rates": plateau_rates(kwargs)} for kwargs in PLATEAU_CASES]
    save_json(
        WHERE / "plateau.json",
        {"base_rate": BASE_RATE, "metrics": PLATEAU_METRICS, "notes": "rates[i] is the rate after metrics[i]", "cases": plateau},
    )


if __name__ == "__main__":
    main()
