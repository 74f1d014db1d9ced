"""One small GGUF file per group of tensor types, with the values gguf.quants decodes from them."""

import ctypes
import shutil
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from common import OUT, save_json, save_tensors, versions
from gguf import GGMLQuantizationType as Type

WHERE = OUT / "gguf"
SIMPLE = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
K_QUANTS = ["Q4_K", "Q5_K", "Q6_K"]
SHAPE, K_SHAPE = (5, 96), (3, 512)


def source(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Rows of different size; one block of 32 is zero, one constant, one has a lone outlier."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    x *= 10.0 ** rng.uniform(-3, 1, (shape[0], 1)).astype(np.float32)
    x[0, :32], x[1, :32], x[2, 7] = 0, 0.25, 40
    return x


def ggml_quantise(x: np.ndarray, kind: Type) -> np.ndarray:
    """The C reference quantiser of ggml, from the library inside llama_cpp (gguf.quants cannot write K types)."""
    lib = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    quantise = lib.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((x.shape[0], x.shape[1] // block * size), np.uint8)
    written = quantise(int(kind), x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], None)
    assert written == out.nbytes, (kind, written, out.nbytes)
    return out


def random_blocks(kind: Type, blocks: int, seed: int) -> np.ndarray:
    """Every bit pattern a decoder may meet: random bytes, with finite half-precision scales put in."""
    rng = np.random.default_rng(seed)
    _, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    scales = {Type.Q6_K: [208]}.get(kind, [0, 2])
    for at in scales:
        raw[:, at : at + 2] = (rng.standard_normal((blocks, 1)) * 0.02).astype(np.float16).view(np.uint8)
    return raw.reshape(1, -1)


def write(path: Path, tensors: dict[str, tuple[np.ndarray, Type]]) -> dict:
    """Writes the file; returns what gguf.quants decodes from it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    for name, (data, kind) in tensors.items():
        if kind in (Type.F32, Type.F16):
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    decoded = {}
    for t in gguf.GGUFReader(path).tensors:
        decoded[t.name] = torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32))
    return decoded


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    WHERE.mkdir(parents=True)
    x, k = source(SHAPE, 700), source(K_SHAPE, 701)
    simple = {n: (gguf.quants.quantize(x, Type[n]), Type[n]) for n in SIMPLE}
    expect = {f"simple.{n}": t for n, t in write(WHERE / "simple.gguf", simple).items()}
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        same = np.array_equal(ggml_quantise(x, Type[name]), simple[name][0])
        print(f"{name}: ggml's C quantiser writes {'the same bytes' if same else 'OTHER bytes'}")
    kinds = {n: (ggml_quantise(k, Type[n]), Type[n]) for n in K_QUANTS}
    kinds.update({f"{n}.random": (random_blocks(Type[n], 2, 702), Type[n]) for n in K_QUANTS})
    expect.update({f"k.{n}": t for n, t in write(WHERE / "k.gguf", kinds).items()})
    expect.update({"source": torch.from_numpy(x), "k_source": torch.from_numpy(k)})
    save_tensors(WHERE / "expect.safetensors", expect)
    notes = {
        "simple.<type>": "decoded tensor <type> of simple.gguf; its bytes are gguf.quants.quantize(source)",
        "k.<type>": "decoded tensor <type> of k.gguf; its bytes are ggml_quantize_chunk(k_source) of llama_cpp's ggml, "
        "without an importance matrix",
        "k.<type>.random": "two blocks of random bytes with finite scales, decoded",
        "shapes": "row-major as numpy has them; GGUF stores the dimensions reversed",
    }
    save_json(WHERE / "expect.json", {"tensors": notes, "llama_cpp": llama_cpp.__version__, "versions": versions()})


if __name__ == "__main__":
    main()
