"""What TRL's GRPOTrainer logs, and its gradients, for completions given in advance, on the tiny llama3 model, in float64."""

import shutil
import tempfile

import torch
from common import OUT, Float64, generator, save_adapter, save_json, save_tensors, to_float64, versions
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from rl_rng import Rng, generation_seed
from tiny_models import build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

WHERE = OUT / "rl" / "grpo"
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
SEED = 7
#: Steps whose gradients are kept: the first, and one at which the policy has moved away from its rollouts.
KEPT = (1, 4)

COMMON = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "seed": SEED,
}

# Options as both sides take them.
DEFAULTS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 8,
    "max_steps": 20,
    "learning_rate": 1e-2,
    "max_grad_norm": 1e6,
    "logging_steps": 1,
    "shuffle_dataset": False,
}
REUSED = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "num_iterations": 2}
CASES = {
    "grpo": {"loss_type": "grpo", "beta": 0.04},
    "bnpo": {"loss_type": "bnpo", "scale_rewards": "batch", "mask_truncated_completions": True, **REUSED},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", "epsilon_high": 0.28, "delta": 1.5, **REUSED},
    "dapo": {"loss_type": "dapo", "temperature": 0.7, **REUSED},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.05, "beta": 0.1, "use_bias_correction_kl": False, **REUSED},
    "sapo": {"loss_type": "sapo", "gradient_accumulation_steps": 3, "steps_per_generation": 2},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence", **REUSED},
    "vespo": {"loss_type": "vespo", **REUSED},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.04, "epsilon": 0.01, **REUSED},
    "entropy": {
        "loss_type": "dapo",
        "top_entropy_quantile": 0.4,
        "reward_weights": [1.0, 0.5],
        "multi_objective_aggregation": "normalize_then_sum",
    },
    "bonus": {"loss_type": "dapo", "entropy_coef": 0.05, "temperature": 0.7, **REUSED},
    "bonus_top": {"loss_type": "grpo", "entropy_coef": 0.02, "top_entropy_quantile": 0.5},
    "adaptive": {
        "loss_type": "dr_grpo",
        "use_adaptive_entropy": True,
        "entropy_coef": 0.03,
        "entropy_coef_delta": 0.01,
        "entropy_coef_max": 0.05,
        "entropy_target": 2.8,
    },
    "off_policy": {"loss_type": "dapo", "off_policy_mask_threshold": 0.01, "reward_weights": [0.5, 2.0], **REUSED},
}


# Of the cases with beta: those whose reference is the base model. TRL's is a copy of the adapter it is given.
BASE_REFERENCE = ("cispo", "gspo")


def tokenizer() -> PreTrainedTokenizerFast:
    """Words t4, t5, …: token i is t<i>."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {special[i] if i < 4 else f"t{i}": i for i in range(101)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = zip(("pad_token", "bos_token", "eos_token", "unk_token"), special)
    return PreTrainedTokenizerFast(tokenizer_object=plain, **dict(names))


def evens(completion_ids, **columns):
    """Share of even ids."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


def near(completion_ids, target, **columns):
    """How near the first id is to the row's target; nothing for completions of two tokens."""
    return [
        None if len(ids) == 2 else 1 / (1 + abs(ids[0] - goal) / 10)
        for ids, goal in zip(completion_ids, target, strict=True)
    ]


def make_prompts(g: torch.Generator) -> list[dict]:
    rows = []
    for _ in range(6):
        n = 2 + int(torch.randint(0, 6, (), generator=g))
        ids = 4 + torch.randint(0, 97, (n,), generator=g)
        rows.append({"prompt": " ".join(f"t{i}" for i in ids.tolist()), "target": int(torch.randint(3, 101, (), generator=g))})
    return rows


def make_completions(g: torch.Generator, count: int) -> list[list[int]]:
    """Of 1 to 8 tokens; those shorter than 8 end with EOS, id 2."""
    lists = []
    for _ in range(count):
        n = 2 + int(torch.randint(0, 7, (), generator=g))
        ids = (3 + torch.randint(0, 98, (n,), generator=g)).tolist()
        lists.append(ids if n == 8 else [*ids[:-1], 2])
    return lists


class Gradients(TrainerCallback):
    def __init__(self, model):
        self.model, self.kept = model, {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        step = state.global_step + 1
        if step in KEPT:
            for name, p in self.model.named_parameters():
                if p.requires_grad:
                    key = name.replace(".default.weight", ".weight")
                    self.kept[f"{step}.{key}"] = p.grad.detach().clone()


def write(name: str, options: dict, rows: list[dict], completions: list[list[int]], weights: dict) -> None:
    torch.manual_seed(0)
    model = get_peft_model(build("llama3"), LoraConfig(**LORA))
    set_peft_model_state_dict(model, weights)
    to_float64(model)
    recorder = Gradients(model)
    given = iter(completions)
    generations = 0
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(output_dir=folder, **{**COMMON, **DEFAULTS, **options})
        rewards = [evens, near] if "reward_weights" in options else [evens]

        def shuffled(batch: dict) -> dict:
            nonlocal generations
            size = args.generation_batch_size
            order = Rng(generation_seed(SEED, generations, size)).permutation(size)
            generations += 1
            return {
                key: value if value is None or value.ndim == 0 else value[order] for key, value in batch.items()
            }

        original, grpo_trainer.shuffle_sequence_dict = grpo_trainer.shuffle_sequence_dict, shuffled
        beta = args.beta
        if name in BASE_REFERENCE:
            # Without beta there is no copy, so that the adapter is taken off later.
            args.beta = 0.0
        trainer = GRPOTrainer(
            model=model,
            args=args,
            reward_funcs=rewards,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer(),
            callbacks=[recorder],
        )
        args.beta = trainer.beta = beta
        trainer.ref_model = None
        to_float64(model)
        trainer._generate_single_turn = lambda prompt_ids, *rest, **kwargs: ([next(given) for _ in prompt_ids], None)
        with Float64():
            trainer.train()
        grpo_trainer.shuffle_sequence_dict = original
    history = [
        {key: value for key, value in row.items() if key != "step_time"}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    save_tensors(WHERE / f"{name}.safetensors", recorder.kept)
    facts = {"ref_model": "base"} if name in BASE_REFERENCE else {}
    save_json(WHERE / f"{name}.json", {"options": {**DEFAULTS, **options}, **facts, "seed": SEED, "log_history": history})
    clips = [max(v for k, v in row.items() if "clip" in k and "clipped" not in k) for row in history if any("clip_ratio" in k for k in row)]
    print(f"{name}: loss {history[0]['loss']:.5f} -> {history[-1]['loss']:.5f}, most clipped {max(clips, default=0):.3f}")


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    g = generator(950)
    rows, completions = make_prompts(g), make_completions(g, 240)
    model = get_peft_model(build("llama3"), LoraConfig(**LORA))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.15)
    save_adapter(model, WHERE / "adapter")
    from safetensors.torch import load_file

    weights = load_file(str(WHERE / "adapter" / "adapter_model.safetensors"))
    save_json(WHERE / "rollouts.json", {"rows": rows, "completions": completions, "versions": versions()})
    for name, options in CASES.items():
        write(name, options, rows, completions, weights)


if __name__ == "__main__":
    main()
