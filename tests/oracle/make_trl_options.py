"""The options that TRL's configurations have beside TrainingArguments', and their defaults.

TRL has had no PPOTrainer since 1.13: with `--ppo FOLDER`, where trl 1.12.0 is installed without its dependencies, PPOConfig's
are written again too; without it those that are there stay.
"""

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys

from common import OUT

FILE = OUT / "trl_options.json"
CONFIGS = {
    "GRPOConfig": "trl",
    "DPOConfig": "trl",
    "KTOConfig": "trl",
    "RewardConfig": "trl",
    "CPOConfig": "trl.experimental.cpo",
    "ORPOConfig": "trl.experimental.orpo",
}


def options(module: str, name: str) -> dict:
    from transformers import TrainingArguments

    base = {field.name for field in dataclasses.fields(TrainingArguments)}
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    own = {field.name: field for field in fields if field.name not in base}
    return {
        name: field.default_factory() if field.default is dataclasses.MISSING else field.default
        for name, field in own.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ppo")
    parser.add_argument("--print-ppo", action="store_true")
    given, _ = parser.parse_known_args()
    if given.print_ppo:
        print(json.dumps(options("trl.experimental.ppo", "PPOConfig")))
        return
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if given.ppo:
        environment = {"PYTHONPATH": given.ppo}
        command = [sys.executable, __file__, "--print-ppo"]
        printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        known["PPOConfig"] = json.loads(printed.splitlines()[-1])
    made = {name: options(module, name) for name, module in CONFIGS.items()}
    FILE.write_text(json.dumps({**made, "PPOConfig": known["PPOConfig"]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
