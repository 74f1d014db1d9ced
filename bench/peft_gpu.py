"""LoRA steps of transformers + peft (and of bitsandbytes' QLoRA, and of Unsloth, where they are installed) on a GPU, at the
shapes of bench/gpu/shapes.mjs with random weights: what this project's steps are held against.

    python bench/peft_gpu.py --shape '{"model_type": "llama", …}' --case 8x2048 --case 2x2048 [--quant nf4] [--unsloth]
    python bench/peft_gpu.py --shape … --attention 8x2048        # times of torch's attention kernels alone

LoRA r = 16 on the seven linears of each layer, gradient checkpointing, AdamW. One line "RESULT {json}" a case.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import tempfile
import time

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", required=True, help="config.json as text")
    p.add_argument("--name", default="", help="what the shape is called in results")
    p.add_argument("--case", action="append", default=[], help="BATCHxLENGTH")
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--quant", choices=["none", "nf4"], default="none")
    p.add_argument("--unsloth", action="store_true")
    p.add_argument("--attention", action="append", default=[], help="BATCHxLENGTH whose attention is timed")
    p.add_argument("--started", type=float, help="Unix time in ms when the process was started: first step only")
    return p.parse_args()


def result(section: str, **row: object) -> None:
    print("RESULT " + json.dumps({"section": section, **row}), flush=True)


def cases(texts: list[str]) -> list[tuple[int, int]]:
    return [tuple(int(x) for x in text.split("x")) for text in texts]


def config_of(shape: dict):
    import transformers

    # JSON of another language writes 50.0 as 50, which transformers refuses.
    fields = {key: float(x) if key.endswith(("softcapping", "theta")) else x for key, x in shape.items()}
    fields["use_cache"] = False
    # Gemma 2's soft caps are not in SDPA: eager is what transformers advises for training it.
    attention = "eager" if shape["model_type"] == "gemma2" else "sdpa"
    return transformers.AutoConfig.for_model(**fields), attention


def base_model(a: argparse.Namespace, shape: dict):
    """The model with random weights on the card, its linear layers in NF4 if asked for."""
    import torch
    import transformers

    config, attention = config_of(shape)
    config._attn_implementation = attention
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    torch.set_default_dtype(torch.float32)
    if a.quant == "nf4":
        import bitsandbytes as bnb

        for name, module in list(model.named_modules()):
            if not isinstance(module, torch.nn.Linear) or name == "lm_head":
                continue
            new = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=module.bias is not None,
                compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4",
            )
            new.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
            if module.bias is not None:
                new.bias = torch.nn.Parameter(module.bias.data, requires_grad=False)
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], new.to("cuda"))
            del module
        model.is_loaded_in_4bit = True
        torch.cuda.empty_cache()
    return model, attention


def with_peft(model):
    import peft

    lora = peft.LoraConfig(r=16, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    return model


def number_tokenizer(vocab_size: int):
    """A tokenizer whose words are the token ids: Unsloth does not load a folder without one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>"]
    words = {str(i): i for i in range(vocab_size - len(special))}
    words.update({word: vocab_size - len(special) + i for i, word in enumerate(special)})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def with_unsloth(a: argparse.Namespace, shape: dict):
    """Unsloth loads folders only: one is written with random weights first."""
    from unsloth import FastLanguageModel

    import torch

    # Memory rather than a disk where there is plenty: only steps are timed.
    memory = "/dev/shm"
    roomy = os.path.isdir(memory) and shutil.disk_usage(memory).free > 64 * 2**30
    with tempfile.TemporaryDirectory(prefix="unsloth-bench-", dir=memory if roomy else None) as folder:
        model, _ = base_model(argparse.Namespace(quant="none"), shape)
        model.save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
        number_tokenizer(shape["vocab_size"]).save_pretrained(folder)
        longest = max(length for _, length in cases(a.case))
        model, _ = FastLanguageModel.from_pretrained(folder, max_seq_length=longest, load_in_4bit=True, dtype=None)
    return FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, target_modules=LINEARS, use_gradient_checkpointing="unsloth"
    )


def steps(a: argparse.Namespace, model, who: str, vocab: int) -> None:
    import torch

    model.train()
    trained = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    for batch, length in cases(a.case):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        times = []
        try:
            ids = torch.randint(0, vocab, (batch, length), device="cuda")
            for _ in range(a.warmup + a.steps):
                torch.cuda.synchronize()
                start = time.perf_counter()
                loss = model(input_ids=ids, labels=ids).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
                if a.started:
                    seconds = time.time() - a.started / 1000
                    result("first step", who=who, model=a.name, case=f"{batch}x{length}", seconds={"firstStep": seconds})
                    return
        except torch.cuda.OutOfMemoryError as error:
            optimizer.zero_grad()
            result("rivals", who=who, model=a.name, case=f"{batch}x{length}", error=f"out of memory: {error}"[:200])
            continue
        counted = times[a.warmup :]
        median = statistics.median(counted)
        result(
            "rivals",
            who=who,
            model=a.name,
            case=f"{batch}x{length}",
            medianMs=1000 * median,
            slowestOverMedian=max(counted) / median,
            stepsMs=[1000 * x for x in counted],
            tokensPerSecond=batch * length / median,
            peakGiB=torch.cuda.max_memory_allocated() / 2**30,
            reservedGiB=torch.cuda.max_memory_reserved() / 2**30,
            loss=loss.item(),
        )


def attention(a: argparse.Namespace, shape: dict) -> None:
    """Milliseconds of one layer's causal attention, forward and backward, with each of torch's kernels."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    heads, kv = shape["num_attention_heads"], shape["num_key_value_heads"]
    dim = shape.get("head_dim") or shape["hidden_size"] // heads
    for batch, length in cases(a.attention):
        q, k, v = (
            torch.randn(batch, n, length, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for n in (heads, kv, kv)
        )
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    ms = []
                    for _ in range(8):
                        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
                        events[0].record()
                        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                        events[1].record()
                        out.backward(out.detach())
                        events[2].record()
                        torch.cuda.synchronize()
                        ms.append([events[0].elapsed_time(events[1]), events[1].elapsed_time(events[2])])
                forward, backward = (statistics.median(x[i] for x in ms[3:]) for i in range(2))
                result(
                    "attention", who=f"torch {backend.name}", model=a.name, case=f"{batch}x{length}",
                    forwardMs=forward, backwardMs=backward,
                )
            except RuntimeError as error:
                result("attention", who=f"torch {backend.name}", model=a.name, case=f"{batch}x{length}", error=str(error)[:200])
        del q, k, v


def missing(a: argparse.Namespace, who: str, error: ImportError) -> None:
    what = error.name or str(error)
    result("rivals", who=who, model=a.name, error=f"not installed ({what})")


def main() -> None:
    a = parse()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # Models are made here: nothing is asked of a hub.
    for name in ("HF_HUB_OFFLINE", "UNSLOTH_DISABLE_STATISTICS"):
        os.environ.setdefault(name, "1")
    shape = json.loads(a.shape)
    label = "Unsloth" if a.unsloth else "transformers + peft + bitsandbytes NF4" if a.quant == "nf4" else "transformers + peft, bf16"
    # Asked first: importing everything else takes many seconds.
    needed = "unsloth" if a.unsloth else "bitsandbytes" if a.quant == "nf4" else "peft"
    if importlib.util.find_spec(needed) is None:
        missing(a, label, ImportError(name=needed))
        return
    try:
        if a.unsloth:
            import unsloth  # patches the others, so it comes first
        import peft
        import torch
        import transformers

        torch.manual_seed(0)
        if a.attention:
            attention(a, shape)
        if not a.case:
            return
        if a.unsloth:
            model = with_unsloth(a, shape)
            who = f"Unsloth {unsloth.__version__}"
        else:
            if a.quant == "nf4":
                import bitsandbytes

                label += f" {bitsandbytes.__version__}"
            model, kernel = base_model(a, shape)
            model = with_peft(model)
            who = f"{label} ({transformers.__version__}, {peft.__version__}, torch {torch.__version__}, {kernel})"
    except ImportError as error:
        missing(a, label, error)
        return
    steps(a, model, who, shape["vocab_size"])


main()
