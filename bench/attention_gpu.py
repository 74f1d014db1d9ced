"""PyTorch's scaled_dot_product_attention at the shapes of bench/attention_gpu.mjs: flash and cuDNN backends, bf16, causal.

Soft-caps and packed lengths have no counterpart there: Gemma's shape is timed without its soft-cap, lengths as a nested tensor.
"""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

RAGGED = [2011, 37, 410, 999, 128, 64, 1530, 701, 83, 1200, 342, 4096, 55, 617, 1811, 203, 940, 505, 652]
CASES = {
    "Llama-3 8x2048": (8, 2048, 32, 8, 128),
    "Llama-3 1x16384": (1, 16384, 32, 8, 128),
    "Qwen2-7B 8x2048": (8, 2048, 28, 4, 128),
    "Gemma-2-9B 8x2048, no soft-cap": (8, 2048, 16, 8, 256),
    "head size 64, 8x2048": (8, 2048, 32, 8, 64),
    "1x81920": (1, 81920, 32, 8, 128),
}


def timed(run, times=10):
    for _ in range(2):
        run()
    pairs = []
    for _ in range(times):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        pairs.append((start, stop))
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(b) for a, b in pairs)[times // 2]


def report(label, backend, q, k, v, dout, flops):
    try:
        with sdpa_kernel(backend):
            run = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
            forward = timed(run)
            out = run()
            backward = timed(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
    except RuntimeError as error:
        print(f"{label:32}{backend.name}: {str(error).splitlines()[0][:120]}")
        return
    print(f"{label:32}{backend.name:18}{forward:9.3f} ms {flops / forward / 1e9:4.0f} TFLOP/s   |{backward:9.3f} ms {2.5 * flops / backward / 1e9:4.0f} TFLOP/s", flush=True)


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)


print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}")
for label, (batch, length, heads, kv_heads, size) in CASES.items():
    q, k, v = (random(batch, n, length, size) for n in (heads, kv_heads, kv_heads))
    dout = torch.randn_like(q)
    flops = 4 * batch * heads * size * length * (length + 1) / 2
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        report(label, backend, q, k, v, dout, flops)
# Key heads repeated: nested tensors have no groups.
nested = lambda: torch.nested.nested_tensor([torch.randn(n, 32, 128, device="cuda", dtype=torch.bfloat16) for n in RAGGED], layout=torch.jagged).requires_grad_()
try:
    q, k, v = (nested() for _ in range(3))
    flops = 4 * 32 * 128 * sum(n * (n + 1) / 2 for n in RAGGED)
    q, k, v = (x.detach().transpose(1, 2).requires_grad_() for x in (q, k, v))
    dout = torch.randn_like(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    report("packed, 37 to 4096, 32 key heads", SDPBackend.FLASH_ATTENTION, q, k, v, dout, flops)
except RuntimeError as error:
    print("packed:", str(error).splitlines()[0][:120])
