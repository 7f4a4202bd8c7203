#!/usr/bin/env python
"""Write GPTQ or AWQ checkpoints of a Qwen2-VL model by plain round-to-nearest.

    rtn_quantize.py SOURCE DESTINATION {gptq4,gptq8,awq} [--group-size 128]

Real quantisers (GPTQModel, AutoAWQ) look at calibration data and need a GPU; this one only rounds, so its answers are
worse than theirs, but the files have the layout vLLM expects of them. As in Qwen's own releases only the linears of the
language model's decoder are packed; the vision tower, the embeddings and lm_head keep their type.

Layouts, for a linear layer of weight [out, in], group size g, G = in / g groups, p = 32 / bits values in an int32:

GPTQ (AutoGPTQ v1, symmetric, desc_act False; read by vLLM's
layers/quantization/auto_gptq.py)
    qweight int32 [in / p, out]    p consecutive *input* rows in a word, the first in the lowest bits
    qzeros  int32 [G, out / p]     zero point minus one (the v1 format), p consecutive outputs in a word
    scales  float [G, out]
    g_idx   int32 [in]             group of each input row
    weight[o, i] = (q[i, o] - 2^(bits-1)) * scales[i // g, o]

AWQ (AutoAWQ "GEMM", 4 bit, asymmetric; read by auto_awq.py there)
    qweight int32 [in, out / 8]    8 *outputs* in a word, in AWQ_ORDER
    qzeros  int32 [G, out / 8]     the same packing
    scales  float [G, out]
    weight[o, i] = (q[i, o] - zero[i // g, o]) * scales[i // g, o]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FORMS = ("gptq4", "gptq8", "awq")
DECODER_LINEAR = re.compile(r"layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight$")
MODULES = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]

# AutoAWQ's GEMM kernel unpacks even and odd nibbles separately: nibble k of a word holds output AWQ_ORDER[k].
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def _int32(words: torch.Tensor) -> torch.Tensor:
    """Unsigned 32-bit values held in int64 -> the int32 of the same bits."""
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()


def pack_rows(values: torch.Tensor, bits: int) -> torch.Tensor:
    """[rows, columns] of 0..2^bits-1 -> int32 [rows * bits / 32, columns]."""
    per_word = 32 // bits
    values = values.to(torch.int64).reshape(-1, per_word, values.shape[1])
    return _int32(sum(values[:, k] << (bits * k) for k in range(per_word)))


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of pack_rows, as int64."""
    per_word = 32 // bits
    words = words.to(torch.int64) & 0xFFFFFFFF
    values = [(words >> (bits * k)) & (2**bits - 1) for k in range(per_word)]
    return torch.stack(values, 1).reshape(-1, words.shape[1])


def pack_columns(values: torch.Tensor, bits: int, order: list[int] | None = None) -> torch.Tensor:
    """[rows, columns] of 0..2^bits-1 -> int32 [rows, columns * bits / 32]; `order` as in AWQ_ORDER."""
    per_word = 32 // bits
    values = values.to(torch.int64).reshape(values.shape[0], -1, per_word)
    order = order or range(per_word)
    return _int32(sum(values[:, :, column] << (bits * k) for k, column in enumerate(order)))


def unpack_columns(words: torch.Tensor, bits: int, order: list[int] | None = None) -> torch.Tensor:
    """The inverse of pack_columns, as int64."""
    per_word = 32 // bits
    words = words.to(torch.int64) & 0xFFFFFFFF
    order = list(order or range(per_word))
    values = [(words >> (bits * order.index(column))) & (2**bits - 1) for column in range(per_word)]
    return torch.stack(values, 2).reshape(words.shape[0], -1)


def quantize_gptq(weight: torch.Tensor, bits: int, group_size: int = 128) -> dict[str, torch.Tensor]:
    """weight [out, in] -> qweight, qzeros, scales, g_idx (shapes at the top); scales have the weight's type."""
    columns, rows = weight.shape
    groups = weight.float().t().reshape(rows // group_size, group_size, columns)
    half = 2 ** (bits - 1)
    scales = _stored_scale(groups.abs().amax(1) / (half - 1), weight.dtype)
    q = (torch.round(groups / scales.float()[:, None]) + half).clamp(0, 2 * half - 1).reshape(rows, columns)
    zeros = torch.full((rows // group_size, columns), half - 1)
    return {
        "qweight": pack_rows(q, bits),
        "qzeros": pack_columns(zeros, bits),
        "scales": scales,
        "g_idx": torch.arange(rows, dtype=torch.int32) // group_size,
    }


def quantize_awq(weight: torch.Tensor, group_size: int = 128) -> dict[str, torch.Tensor]:
    """weight [out, in] -> qweight, qzeros, scales (shapes at the top); scales have the weight's type."""
    columns, rows = weight.shape
    groups = weight.float().t().reshape(rows // group_size, group_size, columns)
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)  # zero itself must be representable
    scales = _stored_scale((high - low) / 15, weight.dtype)
    zeros = torch.round(-low / scales.float()).clamp(0, 15)
    q = (torch.round(groups / scales.float()[:, None]) + zeros[:, None]).clamp(0, 15).reshape(rows, columns)
    return {
        "qweight": pack_columns(q, 4, AWQ_ORDER),
        "qzeros": pack_columns(zeros, 4, AWQ_ORDER),
        "scales": scales,
    }


def _stored_scale(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round the scale to the type it is stored in *before* rounding the weights, so that they are rounded to the grid
    the engine will really use."""
    return scale.clamp(min=1e-8).to(dtype)


def dequantize(tensors: dict[str, torch.Tensor], form: str) -> torch.Tensor:
    """What quantize_gptq or quantize_awq made of one layer -> float32 weight [out, in]."""
    words, scales = tensors["qweight"], tensors["scales"].float()
    if form == "awq":
        q, zeros = unpack_columns(words, 4, AWQ_ORDER), unpack_columns(tensors["qzeros"], 4, AWQ_ORDER)
    else:
        bits = int(form.removeprefix("gptq"))
        q, zeros = unpack_rows(words, bits), unpack_columns(tensors["qzeros"], bits) + 1
    group_size = q.shape[0] // scales.shape[0]
    q = q - zeros.repeat_interleave(group_size, 0)
    return (q * scales.repeat_interleave(group_size, 0)).t().contiguous()


def quantization_config(form: str, group_size: int = 128) -> dict:
    """The quantization_config entry of config.json."""
    if form == "awq":
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": ["visual"],
        }
    return {
        "quant_method": "gptq",
        "bits": int(form.removeprefix("gptq")),
        "group_size": group_size,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
        # Without this list vLLM takes the packed layers from the safetensors header, and where that cannot be read
        # it builds them in full precision, silently in some versions.
        "modules_in_block_to_quantize": MODULES,
    }


def quantize_checkpoint(source: Path, destination: Path, form: str, group_size: int = 128) -> int:
    """Copy a one-file checkpoint folder with its decoder linears packed; returns how many linears that were."""
    destination.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.suffix != ".safetensors":
            shutil.copy(file, destination)

    packed: dict[str, torch.Tensor] = {}
    count = 0
    for name, weight in load_file(source / "model.safetensors").items():
        if not DECODER_LINEAR.search(name) or "visual" in name:
            packed[name] = weight
            continue
        count += 1
        parts = quantize_awq(weight, group_size) if form == "awq" else quantize_gptq(weight, int(form[4:]), group_size)
        packed.update({name.removesuffix("weight") + part: tensor for part, tensor in parts.items()})
    if not count:
        raise ValueError(f"{source}: no decoder linear found to quantise")
    save_file(packed, destination / "model.safetensors", metadata={"format": "pt"})

    config_file = destination / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["quantization_config"] = quantization_config(form, group_size)
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return count


def dequantize_checkpoint(source: Path, destination: Path) -> None:
    """A folder that quantize_checkpoint wrote -> the plain bf16 checkpoint that it stands for."""
    destination.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.suffix != ".safetensors":
            shutil.copy(file, destination)
    config_file = destination / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    packing = config.pop("quantization_config")
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    form = "awq" if packing["quant_method"] == "awq" else f"gptq{packing['bits']}"
    stored = load_file(source / "model.safetensors")
    plain = {}
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            parts = {key: stored[f"{layer}.{key}"] for key in ("qweight", "qzeros", "scales")}
            plain[f"{layer}.weight"] = dequantize(parts, form).to(parts["scales"].dtype)
        elif f"{layer}.qweight" not in stored or part == "bias":
            plain[name] = tensor
    save_file(plain, destination / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--group-size", type=int, default=128)
    args = parser.parse_args()
    count = quantize_checkpoint(args.source, args.destination, args.form, args.group_size)
    print(f"{args.destination}: {args.form}, {count} linears packed")


if __name__ == "__main__":
    main()
