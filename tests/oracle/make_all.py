"""Regenerates every fixture under tests/fixtures/oracle. Run: python tests/oracle/make_all.py [name ...]"""

import sys

import families
import generation
import gguf_models
import gguf_types
import lora_variants
import make_peft_variants
import make_reward
import make_preference
import make_preference_rows
import make_rl_grpo
import make_trainer
import make_trl_options
import nf4
import optimizers
import schedules
import tensorboard_events
import trajectories

# Order matters: trajectories train on the NF4 model.
PARTS = {
    "families": families,
    "nf4": nf4,
    "optimizers": optimizers,
    "trajectories": trajectories,
    "gguf": gguf_types,
    "gguf_models": gguf_models,
    "generation": generation,
    "lora_variants": lora_variants,
    "peft_variants": make_peft_variants,
    "schedules": schedules,
    "tensorboard": tensorboard_events,
    "trainer": make_trainer,
    "rl_grpo": make_rl_grpo,
    "trl_options": make_trl_options,
    "preference_rows": make_preference_rows,
    "preference": make_preference,
    "reward": make_reward,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        print(f"== {name}")
        PARTS[name].main()
