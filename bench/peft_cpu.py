"""LoRA fine-tuning speed of transformers + peft on the CPU, for comparison. Prints one line of JSON.

    python bench/peft_cpu.py --make-model /tmp/smollm2-shape        # SmolLM2-135M's shape, random weights
    python bench/peft_cpu.py --model /tmp/smollm2-shape --threads 2 --steps 6

Every step is the same batch of random tokens, float32, AdamW, LoRA r = 16, alpha = 16 on the seven linears of each
layer. Versions: tests/oracle/requirements.txt.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import time

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def seconds_since_process_start(t0: float | None) -> float:
    """Since t0 (Unix time) if given, else since the kernel started this process, interpreter and imports included."""
    if t0 is not None:
        return time.time() - t0
    with open("/proc/self/stat") as f:
        ticks = int(f.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", help="a Hugging Face model folder")
    p.add_argument("--make-model", help="write a random model of SmolLM2-135M's shape to this folder, and stop")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--attn", choices=["sdpa", "eager"], default="sdpa")
    p.add_argument("--gradient-checkpointing", action="store_true")
    p.add_argument("--compile", action="store_true", help="torch.compile the model (inductor)")
    p.add_argument("--keep-memory", action="store_true", help="glibc malloc keeps freed memory: fewer page faults")
    p.add_argument("--t0", type=float, help="Unix time at which the clock started; default: this process's start")
    return p.parse_args()


def keep_freed_memory() -> None:
    """No mmap for large blocks and no trimming, so that each step reuses the pages of the step before."""
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_mmap_max = -1, -4
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, -1)):
        raise RuntimeError("mallopt refused the settings")


def make_model(folder: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def build(args: argparse.Namespace):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation=args.attn)
    model.config.use_cache = False
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    config = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config).train()
    return tuned, torch.compile(tuned) if args.compile else tuned


def main() -> None:
    args = parse()
    if args.make_model:
        return make_model(args.make_model)
    if args.keep_memory:
        keep_freed_memory()
    load_before = os.getloadavg()[0]
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import peft
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    tuned, step_model = build(args)
    params = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=2e-4, weight_decay=0.0)
    ids = torch.randint(
        0, tuned.config.vocab_size, (args.batch, args.length), generator=torch.Generator().manual_seed(1)
    )

    losses, seconds, cpu_seconds, first = [], [], [], 0.0
    for step in range(args.steps):
        start, cpu = time.perf_counter(), time.process_time()
        loss = step_model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu)
        if step == 0:
            first = seconds_since_process_start(args.t0)
    later = seconds[1:] or seconds
    report = {
        "what": "transformers + peft LoRA step, CPU, float32",
        "tokens_per_second": args.batch * args.length / statistics.median(later),
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds_to_first_step_done": first,
        "step_seconds": seconds,
        "step_cpu_seconds": cpu_seconds,
        "losses": losses,
        "trainable_parameters": sum(p.numel() for p in params),
        "batch": [args.batch, args.length],
        "threads": torch.get_num_threads(),
        "attn": args.attn,
        "gradient_checkpointing": args.gradient_checkpointing,
        "compile": args.compile,
        "keep_memory": args.keep_memory,
        "load_average_before": load_before,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
