"""DPO steps of TRL + peft, for bench/dpo.mjs. Prints one line of JSON.

    python bench/trl_dpo.py --model FOLDER --tokenizer FOLDER --rows pairs.jsonl --steps 4 [--device cuda] [--checkpointing]

LoRA r 16 on all linears; the reference is the model without its adapter, as in this project.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--rows", required=True)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--t0", type=float, default=time.time())
    a = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    import peft
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    torch.set_num_threads(a.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    gpu = a.device == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype).to(a.device)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM"))
    tokenizer = AutoTokenizer.from_pretrained(a.tokenizer)
    with open(a.rows) as f:
        rows = [json.loads(line) for line in f]

    class Timer(TrainerCallback):
        def __init__(self):
            self.ends, self.first = [], None

        def on_train_begin(self, *args, **kwargs):
            self.ends.append(time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            if gpu:
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.first = self.first or time.time() - a.t0

    timer = Timer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.DPOTrainer(
            model=model,
            args=trl.DPOConfig(
                output_dir=folder, per_device_train_batch_size=a.batch, max_steps=a.steps, logging_steps=1,
                save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=not gpu, bf16=gpu, max_length=4096,
                gradient_checkpointing=a.checkpointing, learning_rate=1e-5,
                train_sampling_strategy="sequential",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[timer],
        )
        trainer.train()
    seconds = [b - a for a, b in zip(timer.ends, timer.ends[1:])]
    history = [row for row in trainer.state.log_history if "loss" in row]
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "secondsPerStep": statistics.median(seconds[1:] or seconds),
        "peakBytes": peak,
        "firstStepSeconds": timer.first,
        "losses": [row["loss"] for row in history],
        "logpsChosen": history[0].get("logps/chosen"),
        "versions": {"trl": trl.__version__, "peft": peft.__version__, "transformers": transformers.__version__,
                     "torch": torch.__version__},
    }))


if __name__ == "__main__":
    main()
