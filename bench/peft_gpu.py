"""A LoRA step of transformers + peft in bfloat16 at Llama-3-8B's shapes, random weights: what bench/gpu.mjs is held against.

    python bench/peft_gpu.py [--batch 8] [--length 2048] [--layers 32] [--steps 3]

LoRA r = 16 on the seven linears of each layer, gradient checkpointing, SDPA, AdamW. Prints one line of JSON.
"""

import argparse
import json
import statistics
import time

import peft
import torch
import transformers

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--length", type=int, default=2048)
    p.add_argument("--layers", type=int, default=32)
    p.add_argument("--steps", type=int, default=3)
    a = p.parse_args()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=a.layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        use_cache=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    lora = peft.LoraConfig(r=16, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=1e-4)
    ids = torch.randint(0, 128256, (a.batch, a.length), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(a.steps + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([x for x in model.parameters() if x.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    median = statistics.median(times[2:])
    print(
        json.dumps(
            {
                "what": f"transformers {transformers.__version__} + peft {peft.__version__}, torch {torch.__version__}",
                "batch": a.batch,
                "length": a.length,
                "median_ms": 1000 * median,
                "tokens_per_second": a.batch * a.length / median,
                "peak_GiB": torch.cuda.max_memory_allocated() / 2**30,
                "reserved_GiB": torch.cuda.max_memory_reserved() / 2**30,
                "loss": loss.item(),
            }
        )
    )


main()
