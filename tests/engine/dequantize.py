"""The plain bf16 checkpoint that a packed GPTQ or AWQ one stands for, written without the library that packed it.

GPTQ (v1): qweight int32 [in / p, out], p consecutive inputs in a word, the first in the lowest bits; qzeros int32
[G, out / p], zero point minus one; scales [G, out]; weight[o, i] = (q[i, o] - zero) * scales[i // g, o].
AWQ ("GEMM"): qweight int32 [in, out / 8], 8 outputs in a word in AWQ_ORDER; qzeros packed alike.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble k of a word holds output AWQ_ORDER[k]


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [rows * bits / 32, columns] -> int64 [rows, columns] of 0..2^bits-1."""
    words = words.to(torch.int64) & 0xFFFFFFFF
    values = [(words >> (bits * k)) & (2**bits - 1) for k in range(32 // bits)]
    return torch.stack(values, 1).reshape(-1, words.shape[1])


def unpack_columns(words: torch.Tensor, bits: int, order: list[int] | None = None) -> torch.Tensor:
    """int32 [rows, columns * bits / 32] -> int64 [rows, columns]; `order` as in AWQ_ORDER."""
    words, per_word = words.to(torch.int64) & 0xFFFFFFFF, 32 // bits
    values = [(words >> (bits * k)) & (2**bits - 1) for k in range(per_word)]
    if order:
        values = [values[order.index(place)] for place in range(per_word)]
    return torch.stack(values, 2).reshape(words.shape[0], -1)


def dequantize(layer: dict[str, torch.Tensor], packing: dict) -> torch.Tensor:
    """float32 weight [out, in]."""
    bits, words, zeros = packing["bits"], layer["qweight"], layer["qzeros"]
    scales = layer["scales"].to(torch.bfloat16).float()  # as vLLM loads them for a bf16 model
    if packing["quant_method"] == "awq":
        q, zeros = unpack_columns(words, bits, AWQ_ORDER), unpack_columns(zeros, bits, AWQ_ORDER)
    else:
        q, zeros = unpack_rows(words, bits), unpack_columns(zeros, bits) + 1
    group = q.shape[0] // scales.shape[0]
    return ((q - zeros.repeat_interleave(group, 0)) * scales.repeat_interleave(group, 0)).t().contiguous()


def dequantize_checkpoint(source: Path, destination: Path) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, destination)
    config = json.loads((destination / "config.json").read_text(encoding="utf-8"))
    packing = config.pop("quantization_config")
    (destination / "config.json").write_text(json.dumps(config), encoding="utf-8")
    stored, plain = load_file(source / "model.safetensors"), {}
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            parts = {key: stored[f"{layer}.{key}"] for key in ("qweight", "qzeros", "scales")}
            plain[f"{layer}.weight"] = dequantize(parts, packing).to(torch.bfloat16)
        elif f"{layer}.qweight" not in stored or part == "bias":
            plain[name] = tensor.to(torch.bfloat16)
    save_file(plain, destination / "model.safetensors", metadata={"format": "pt"})
