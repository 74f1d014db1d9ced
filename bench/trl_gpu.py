"""TRL's DPOTrainer and PPOTrainer on a GPU, at the shapes of bench/gpu/shapes.mjs with random weights: what this project's
trainers are held against (bench/gpu/dpo.mjs, bench/gpu/rl-ppo.mjs).

    python bench/trl_gpu.py dpo --shapes '{"llama3-1b": {…}}' --rows pairs.jsonl --case llama3-1b:checkpointing …
    python bench/trl_gpu.py ppo --shapes … --rows prompts.jsonl --case llama3-1b:models=4 … --path FOLDER_OF_TRL_1.12

LoRA r = 16 on the seven linears of each layer, bf16, 32-bit AdamW. A case is MODEL:OPTION+OPTION; options: checkpointing,
liger (DPO), models=4 or models=3 (PPO; with 3, the reference is the policy without its adapter), after-failure (only when
the case before failed). One line "RESULT {json}" a case. TRL has had no PPOTrainer since 1.13.
"""

import argparse
import gc
import importlib.util
import json
import math
import os
import sys
import tempfile
import time
import traceback

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GIB = 2**30


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trainer", choices=["dpo", "ppo"])
    p.add_argument("--shapes", default="{}", help="config.json of each model, as one object of text")
    p.add_argument("--rows", required=True, help="JSON Lines of token ids")
    p.add_argument("--case", action="append", default=[])
    p.add_argument("--path", help="folder before others where Python looks for packages")
    p.add_argument("--batch", type=int, default=4, help="DPO: pairs of a step")
    p.add_argument("--micro", type=int, default=4, help="PPO: completions of one backward pass")
    p.add_argument("--response", type=int, default=128)
    p.add_argument("--warmup", type=int, default=1, help="PPO: updates that are not counted")
    p.add_argument("--updates", type=int, default=2)
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--folder", help="a model with weights in place of random ones, for comparisons")
    return p.parse_args()


def result(section: str, **row: object) -> None:
    print("RESULT " + json.dumps({"section": section, **row}), flush=True)


def median(values: list[float]) -> float:
    """As in bench/gpu/lib.mjs: of an even number, the larger of the middle two."""
    return sorted(values)[len(values) // 2]


class Bench:
    """A process of one trainer: packages, models, and what is measured."""

    def __init__(self, a: argparse.Namespace):
        import torch
        import transformers

        self.a, self.torch, self.transformers = a, torch, transformers
        self.gpu = a.device == "cuda"
        self.shapes = json.loads(a.shapes)
        self.rows = [json.loads(line) for line in open(a.rows)]

    def config(self, name: str):
        if self.a.folder:
            return self.transformers.AutoConfig.from_pretrained(self.a.folder)
        # JSON of another language writes 500000.0 as 500000, which transformers refuses.
        shape = {key: float(x) if key.endswith("theta") else x for key, x in self.shapes[name].items()}
        return self.transformers.AutoConfig.for_model(**shape)

    def make(self, name: str, head: str = "CausalLM"):
        """A model in bf16 on the card; `head`: CausalLM, or SequenceClassification with one label."""
        torch, transformers = self.torch, self.transformers
        auto = getattr(transformers, f"AutoModelFor{head}")
        labels = {"num_labels": 1} if head != "CausalLM" else {}
        if self.a.folder:
            model = auto.from_pretrained(self.a.folder, dtype=torch.bfloat16, attn_implementation="sdpa", **labels)
            model.config.pad_token_id = 0
            return model.to(self.a.device)
        config = self.config(name)
        config.pad_token_id = 0
        for key, value in labels.items():
            setattr(config, key, value)
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(self.a.device):
                return auto.from_config(config, attn_implementation="sdpa")
        finally:
            torch.set_default_dtype(torch.float32)

    def tokenizer(self):
        """One that knows what pads: rows are token ids already."""
        from tokenizers import Tokenizer, models

        words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<eos>": 2}, unk_token="<unk>"))
        return self.transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
        )

    def lora(self, task: str):
        import peft

        return peft.LoraConfig(r=16, lora_alpha=16, target_modules=LINEARS, task_type=task)

    def who(self, what: str) -> str:
        import peft
        import trl

        torch, transformers = self.torch, self.transformers
        versions = f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}"
        return f"TRL {trl.__version__} ({versions}), {what}"

    def timer(self):
        bench, torch = self, self.torch

        class Timer(self.transformers.TrainerCallback):
            def __init__(self):
                self.ends = []

            def now(self):
                if bench.gpu:
                    torch.cuda.synchronize()
                self.ends.append(time.perf_counter())

            def on_train_begin(self, *args, **kwargs):
                self.now()

            def on_step_end(self, *args, **kwargs):
                self.now()

            def seconds(self):
                return [b - a for a, b in zip(self.ends, self.ends[1:])]

        return Timer()

    def clear(self) -> float:
        """Frees what the case before held; GiB that are still held."""
        gc.collect()
        if not self.gpu:
            return 0.0
        self.torch.cuda.empty_cache()
        self.torch.cuda.reset_peak_memory_stats()
        return self.torch.cuda.memory_allocated() / GIB

    def memory(self) -> dict:
        if not self.gpu:
            return {}
        cuda = self.torch.cuda
        return {
            "peakGiB": cuda.max_memory_allocated() / GIB,
            "reservedGiB": cuda.max_memory_reserved() / GIB,
        }

    def common(self, folder: str) -> dict:
        """Arguments of both trainers."""
        return {
            "output_dir": folder,
            "use_cpu": not self.gpu,
            "bf16": True,
            "optim": "adamw_torch_fused" if self.gpu else "adamw_torch",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


def options_of(text: str) -> tuple[str, list[str]]:
    name, _, rest = text.partition(":")
    return name, [option for option in rest.split("+") if option]


def dpo(bench: Bench, name: str, options: list[str]) -> dict:
    import trl
    from datasets import Dataset

    class TokenRows(trl.DPOTrainer):
        """The rows are token ids: there is nothing to tokenize."""

        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

    a, rows = bench.a, bench.rows
    steps = len(rows) // a.batch
    timer = bench.timer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TokenRows(
            model=bench.make(name),
            args=trl.DPOConfig(
                **bench.common(folder),
                per_device_train_batch_size=a.batch,
                max_steps=2 * steps,
                max_length=None,
                gradient_checkpointing="checkpointing" in options,
                use_liger_kernel="liger" in options,
                learning_rate=1e-5,
                train_sampling_strategy="sequential",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=bench.tokenizer(),
            peft_config=bench.lora("CAUSAL_LM"),
            callbacks=[timer],
        )
        trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    first = float(history[0]["loss"])
    tokens = [
        sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows[i : i + a.batch])
        for i in range(0, steps * a.batch, a.batch)
    ]
    seconds = timer.seconds()
    counted = seconds[steps:]
    return {
        "medianMs": 1000 * median(counted),
        "slowestOverMedian": max(counted) / median(counted),
        "tokensPerSecond": median([n / s for n, s in zip(tokens, counted)]),
        "firstLoss": first,
        "lastLoss": float(history[-1]["loss"]),
        "logpsChosen": float(history[0]["logps/chosen"]),
        "stepsMs": [1000 * s for s in counted],
        "firstStepsMs": [1000 * s for s in seconds[:steps]],
        "stepTokens": tokens,
        **({} if abs(first - math.log(2)) < 1e-3 else {"error": f"the first loss is {first}, not ln 2"}),
    }


def ppo(bench: Bench, name: str, options: list[str]) -> dict:
    import peft
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    a, rows, gpu = bench.a, bench.rows, bench.gpu
    updates = a.warmup + a.updates
    policy = bench.make(name)
    reference = bench.make(name) if "models=4" in options else None
    if reference is not None:
        reference.load_state_dict(policy.state_dict())
        reference.requires_grad_(False)
    value, reward = (bench.make(name, "SequenceClassification") for _ in range(2))
    reward.requires_grad_(False)
    policy = peft.get_peft_model(policy, bench.lora("CAUSAL_LM"))
    value = peft.get_peft_model(value, bench.lora("SEQ_CLS"))
    if "checkpointing" in options:
        # The trainer itself does not act on its gradient_checkpointing.
        for model in (policy, value):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
    timer = bench.timer()
    generation = []
    generate = ppo_trainer.batch_generation

    def timed(*args, **kwargs):
        start = time.perf_counter()
        made = generate(*args, **kwargs)
        if gpu:
            bench.torch.cuda.synchronize()
        generation.append(time.perf_counter() - start)
        if made[0].shape[1] != len(rows[0]["input_ids"]) + a.response:
            raise RuntimeError(f"sequences of {made[0].shape[1]} tokens: responses ended before their length")
        return made

    ppo_trainer.batch_generation = timed
    data = Dataset.from_list(rows)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = PPOTrainer(
                args=PPOConfig(
                    **bench.common(folder),
                    per_device_train_batch_size=a.micro,
                    gradient_accumulation_steps=len(rows) // a.micro,
                    response_length=a.response,
                    stop_token=None,
                    missing_eos_penalty=None,
                    num_ppo_epochs=1,
                    total_episodes=updates * len(rows),
                    num_sample_generations=0,
                ),
                processing_class=bench.tokenizer(),
                model=policy,
                ref_model=reference,
                reward_model=reward,
                value_model=value,
                train_dataset=data,
                eval_dataset=data,
                callbacks=[timer],
            )
            trainer.train()
    finally:
        ppo_trainer.batch_generation = generate
    first = next(row for row in trainer.state.log_history if "objective/kl" in row)
    kl, ratio = float(first["objective/kl"]), float(first["val/ratio"])
    right = abs(kl) < 1 and abs(ratio - 1) < 0.05
    counted = timer.seconds()[a.warmup :]
    tokens = sum(len(row["input_ids"]) + a.response for row in rows)
    return {
        "secondsPerUpdate": median(counted),
        "generationSeconds": median(generation[a.warmup :]),
        "tokensPerSecond": tokens / median(counted),
        "firstKl": kl,
        "firstRatio": ratio,
        "entropy": float(first["policy/entropy_avg"]),
        "updateSeconds": counted,
        "firstSeconds": timer.seconds()[: a.warmup],
        **({} if right else {"error": f"the first update has KL {kl} and ratio {ratio}: expected 0 and 1"}),
    }


def described(trainer: str, options: list[str]) -> str:
    memory = "gradient checkpointing" if "checkpointing" in options else "no checkpointing"
    if trainer == "dpo":
        return f"LoRA on bf16, {memory}{', Liger kernels' if 'liger' in options else ''}"
    models = "four models" if "models=4" in options else "three models, reference by adapter off"
    return f"{models}, bf16, {memory}"


def run(bench: Bench, text: str) -> bool:
    """One case, whose row is printed; whether it was measured."""
    a = bench.a
    name, options = options_of(text)
    if a.trainer == "dpo":
        case = f"{a.batch} pairs"
    else:
        case = f"{len(bench.rows)}x{len(bench.rows[0]['input_ids'])}+{a.response}"
    about = {"model": name, "who": bench.who(described(a.trainer, options)), "case": case}
    if "liger" in options and importlib.util.find_spec("liger_kernel") is None:
        result(a.trainer, **about, error="not installed (liger-kernel)")
        return False
    held = bench.clear()
    bench.torch.manual_seed(0)
    started = time.perf_counter()
    failure = None
    try:
        row = (dpo if a.trainer == "dpo" else ppo)(bench, name, options)
        result(a.trainer, **about, **row, **bench.memory(), heldGiB=held)
    except bench.torch.OutOfMemoryError as error:
        failure = f"out of memory: {error}"[:300]
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        failure = f"{type(error).__name__}: {error}"[:300]
    # Here, where the exception with its frames is gone, so that the next case finds the memory free.
    if failure is not None:
        result(a.trainer, **about, error=failure, **bench.memory(), heldGiB=held)
    print(f"{text}: {time.perf_counter() - started:.1f} s with making the models", flush=True)
    return failure is None


def main() -> None:
    a = parse()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if a.path:
        sys.path.insert(0, a.path)
    label = "TRL's DPOTrainer" if a.trainer == "dpo" else "TRL's PPOTrainer (trl 1.12)"
    started = time.perf_counter()
    try:
        import datasets  # noqa: F401
        import peft  # noqa: F401

        if a.trainer == "dpo":
            from trl import DPOTrainer  # noqa: F401
        else:
            from trl.experimental.ppo import PPOTrainer  # noqa: F401
        bench = Bench(a)
    except Exception as error:  # Lazy imports say what they miss in errors of several kinds.
        traceback.print_exc(file=sys.stdout)
        result(a.trainer, who=label, model="", case="", error=f"not installed: {error}"[:200])
        return
    if bench.gpu:
        bench.torch.cuda.init()
    print(f"{time.perf_counter() - started:.1f} s: imported", flush=True)
    measured = True
    for text in a.case:
        if "after-failure" in text and measured:
            continue
        measured = run(bench, text)


main()
