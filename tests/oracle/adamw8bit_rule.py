"""The 8-bit AdamW step as the CUDA kernel of bitsandbytes documents it, transcribed in numpy (not run by the library).

Where it was checked against the kernel, and where it differs, is in the notes of optimizers.py.
Needed because bitsandbytes' CPU kernel requantises through a lookup grid, so its bytes are only approximate. Source:
Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2021), and the published kernel's order of operations.
"""

import numpy as np

F = np.float32
BLOCK = 256


def decode(codes: np.ndarray, absmax: np.ndarray, qmap: np.ndarray) -> np.ndarray:
    return qmap[codes] * np.repeat(absmax, BLOCK)[: len(codes)]


def encode(x: np.ndarray, qmap: np.ndarray, keep_sign: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nearest code by midpoints, ties down; a block of zeros gets code 0; keep_sign shifts a code of the wrong sign."""
    absmax = np.array([np.abs(x[i : i + BLOCK]).max() for i in range(0, len(x), BLOCK)], F)
    scale = np.repeat(absmax, BLOCK)[: len(x)]
    scaled = x / np.where(scale > 0, scale, F(1))
    codes = (scaled[:, None] > (qmap[1:] + qmap[:-1]) / F(2)).sum(1)
    if keep_sign:
        wrong = np.signbit(qmap[codes]) != np.signbit(x)
        codes = codes + np.where(wrong, np.where(x > 0, 1, -1), 0)
    codes[scale == 0] = 0
    return codes.astype(np.uint8), absmax


def step(p, g, state, t, qmap1, qmap2, lr, betas, eps, weight_decay):
    """One step on float32 arrays; state = (codes1, absmax1, codes2, absmax2). Returns (p, state)."""
    codes1, absmax1, codes2, absmax2 = state
    b1, b2 = F(betas[0]), F(betas[1])
    m = decode(codes1, absmax1, qmap1) * b1 + (F(1) - b1) * g
    v = decode(codes2, absmax2, qmap2) * b2 + (F(1) - b2) * g * g
    c1, c2 = F(1 - betas[0] ** t), F(np.sqrt(1 - betas[1] ** t))
    p = p + F(-lr) * (c2 / c1) * (m / (np.sqrt(v) + c2 * F(eps)))
    p = p * F(1 - lr * weight_decay)
    return p, (*encode(m, qmap1, keep_sign=True), *encode(v, qmap2, keep_sign=False))
