"""transformers' generate in bfloat16 at Llama-3-8B's shapes, random weights: what bench/decode_gpu.mjs is held against.

    python bench/decode_gpu.py [--batch 1,16,64] [--prompt 128,2048] [--new 128] [--layers 32]

SDPA, use_cache, greedy; then with a peft LoRA (r 16 on all linears), and in NF4 where bitsandbytes is installed, for the
shorter prompt. Decoding is the time of `new` tokens less that of one. The last line is JSON.
"""

import argparse
import json
import time

import torch
import transformers

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build(layers: int):
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def generate_seconds(model, ids, new: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.no_grad():
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True, min_new_tokens=new, max_new_tokens=new
        )
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(label: str, model, prompts, batches, new: int, results: list) -> None:
    for prompt in prompts:
        for batch in batches:
            ids = torch.randint(0, 128256, (batch, prompt), device="cuda")
            generate_seconds(model, ids, 3)
            first = generate_seconds(model, ids, 1)
            total = generate_seconds(model, ids, new)
            step = (total - first) / (new - 1)
            results.append(
                {"model": label, "prompt": prompt, "batch": batch, "tokensPerSecond": batch / step, "stepMs": 1000 * step, "prefillMs": 1000 * first, "totalTokensPerSecond": batch * new / total}
            )
            print(f"{label:18} prompt {prompt:4} batch {batch:2}: {batch / step:6.0f} tokens/s, step {1000 * step:.2f} ms, prefill {1000 * first:.0f} ms", flush=True)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--batch", default="1,16,64")
    p.add_argument("--prompt", default="128,2048")
    p.add_argument("--new", type=int, default=128)
    p.add_argument("--layers", type=int, default=32)
    a = p.parse_args()
    batches = [int(x) for x in a.batch.split(",")]
    prompts = [int(x) for x in a.prompt.split(",")]
    torch.manual_seed(0)
    results: list = []
    print(f"transformers {transformers.__version__}, torch {torch.__version__}", flush=True)
    model = build(a.layers)
    measure("transformers bf16", model, prompts, batches, a.new, results)
    short = max(a.new // 4, 8)
    try:
        import peft

        config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config).eval()
        measure("+ peft LoRA", model, prompts[:1], batches[:2], short, results)
    except ImportError:
        print("peft is not installed")
    try:
        import bitsandbytes as bnb

        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, torch.nn.Linear) and any(part in name for part in ("base_layer", *LINEARS)):
                    new = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
                    new.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                    setattr(module, name, new.cuda())
        measure("+ NF4", model, prompts[:1], batches[:2], short, results)
    except ImportError:
        print("bitsandbytes is not installed")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
