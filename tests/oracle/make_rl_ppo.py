"""What TRL's PPOTrainer logs, and its gradients, for completions given in advance, on the tiny llama3 model, in float64.

TRL has had no PPOTrainer since 1.13: this needs trl 1.12.0 before the other on the path,

    pip install --no-deps --target trl112 trl==1.12.0 && PYTHONPATH=trl112 python tests/oracle/make_rl_ppo.py
"""

import os
import shutil
import tempfile

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import numpy as np
import torch
from common import OUT, Float64, generator, save_adapter, save_json, save_tensors, to_float64, versions
from datasets import Dataset
from make_rl_grpo import make_completions, make_prompts, tokenizer
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from rl_rng import Rng, generation_seed
from safetensors.torch import load_file
from tiny_models import build
from transformers import LlamaForSequenceClassification
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

WHERE = OUT / "rl" / "ppo"
TARGETS = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
LORA = {**TARGETS, "task_type": "CAUSAL_LM"}
SCORED = {**TARGETS, "task_type": "SEQ_CLS", "modules_to_save": ["score"]}
SEED = 7
#: Updates whose gradients are kept.
KEPT = (1, 4)

COMMON = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "seed": SEED,
    "num_sample_generations": 0,
}
# Options as both sides take them; together 20 updates each.
DEFAULTS = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "response_length": 8,
    "num_ppo_epochs": 2,
    "vf_coef": 0.5,
    "shuffle_dataset": False,
}
CASES = {
    "plain": {"gradient_accumulation_steps": 2, "total_episodes": 80, "cliprange": 0.1},
    "minibatches": {
        "per_device_train_batch_size": 8,
        "num_mini_batches": 2,
        "total_episodes": 40,
        "stop_token": "eos",
        "missing_eos_penalty": 1.0,
        "gamma": 0.9,
        "temperature": 1.3,
        "kl_coef": 0.2,
        "kl_estimator": "k3",
        "cliprange": 0.1,
    },
    "whitened": {
        "per_device_train_batch_size": 8,
        "total_episodes": 80,
        "whiten_rewards": True,
        "stop_token": "eos",
        "cliprange_value": 0.05,
    },
}


def classifier():
    """A sequence classifier over the base model's weights, with the adapter that trains its head."""
    base = build("llama3")
    model = LlamaForSequenceClassification(base.config.__class__(**{**base.config.to_dict(), "num_labels": 1}))
    model.model.load_state_dict(base.model.state_dict())
    return get_peft_model(model, LoraConfig(**SCORED))


def with_weights(model, folder):
    set_peft_model_state_dict(model, load_file(str(folder / "adapter_model.safetensors")))
    return to_float64(model)


def collated(rows: list[list[int]]) -> dict:
    width = max(map(len, rows))
    return {"input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows])}


def write(name: str, options: dict, rows: list[list[int]], completions: list[list[int]]) -> None:
    torch.manual_seed(0)
    policy = with_weights(get_peft_model(build("llama3"), LoraConfig(**LORA)), WHERE / "adapter")
    value, reward = (with_weights(classifier(), WHERE / kind) for kind in ("value", "reward"))
    settings = {**DEFAULTS, **options}
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder, **COMMON, **{k: v for k, v in settings.items() if k != "shuffle_dataset"}
        )
        trainer = PPOTrainer(
            args=args,
            processing_class=tokenizer(),
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_list([{"input_ids": row} for row in rows]),
            eval_dataset=Dataset.from_list([{"input_ids": row} for row in rows]),
        )
        size = args.local_batch_size
        trainer.dataloader = [collated(rows[at : at + size]) for at in range(0, len(rows) - size + 1, size)]
        given = iter(completions)
        shuffles = []
        rollouts = 0

        def recorded(model, queries, *_):
            """The given completions, and their logits at the temperature."""
            nonlocal rollouts
            made = [next(given) for _ in range(len(queries))]
            if args.stop_token is None:
                # Nothing ends a response: all are of full length, without tokens that pad.
                made = [(ids * 8)[: args.response_length] for ids in made]
            width = max(map(len, made))
            responses = torch.tensor([ids + [0] * (width - len(ids)) for ids in made])
            both = torch.cat([queries, responses], 1)
            logits = ppo_trainer.forward(model, both, 0).logits[:, queries.shape[1] - 1 : -1]
            rng = Rng(generation_seed(SEED, rollouts, size))
            shuffles[:] = [rng.permutation(size) for _ in range(args.num_ppo_epochs)]
            rollouts += 1
            return both, logits / (args.temperature + 1e-7)

        kept, updates = {}, 0
        step = trainer.optimizer.step

        def recording(*rest, **kwargs):
            nonlocal updates
            if trainer.accelerator.sync_gradients:
                updates += 1
                if updates in KEPT:
                    for kind, model in (("default", policy), ("value", value)):
                        for key, p in model.named_parameters():
                            if p.requires_grad:
                                plain = key.replace(".default.weight", ".weight").replace(".modules_to_save", "")
                                kept[f"{updates}.{kind}/{plain}"] = p.grad.detach().clone()
            return step(*rest, **kwargs)

        trainer.optimizer.step = recording
        generation, ppo_trainer.batch_generation = ppo_trainer.batch_generation, recorded
        permutation, np.random.permutation = np.random.permutation, lambda n: np.array(shuffles.pop(0))
        with Float64():
            trainer.train()
        ppo_trainer.batch_generation, np.random.permutation = generation, permutation
    history = [{k: v for k, v in row.items() if k != "eps"} for row in trainer.state.log_history]
    save_tensors(WHERE / f"{name}.safetensors", kept)
    save_json(WHERE / f"{name}.json", {"options": settings, "seed": SEED, "updates": updates, "log_history": history})
    print(f"{name}: {updates} updates, {len(history)} rollouts, {history[-1]}")


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    g = generator(960)
    prompts = [*make_prompts(g), *make_prompts(g), *make_prompts(g), *make_prompts(g)]
    rows = [[int(word[1:]) for word in row["prompt"].split()] for row in prompts]
    completions = make_completions(g, 80)
    for kind, model in (
        ("adapter", get_peft_model(build("llama3"), LoraConfig(**LORA))),
        ("value", classifier()),
        ("reward", classifier()),
    ):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.15)
        save_adapter(model, WHERE / kind)
    import trl

    save_json(
        WHERE / "rollouts.json",
        {"rows": prompts, "completions": completions, "versions": {**versions(), "trl": trl.__version__}},
    )
    for name, options in CASES.items():
        write(name, options, rows, completions)


if __name__ == "__main__":
    main()
