"""What a checkpoint folder says of itself, read without torch: quantisation, sizes, image limits, tokenizer."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from pathlib import Path
from typing import Any, Optional

from vlm_eval.config import ModelConfig, QuantConfig
from vlm_eval.errors import BadInput


def locate(model: ModelConfig, quant: QuantConfig) -> str:
    """The checkpoint that `quant` names for this model: a folder or a Hugging Face name."""
    if model.path:
        return model.path
    if not model.checkpoints:
        raise BadInput("model.path: no value given; set it to a checkpoint folder, model.path=FOLDER")
    if quant.name not in model.checkpoints:
        raise BadInput(f"quant={quant.name}: {model.name} has no such checkpoint; it has {', '.join(model.checkpoints)}")
    return model.checkpoints[quant.name]


def is_folder(checkpoint: str) -> bool:
    """Whether this is a path, there or not, rather than a name on the Hub (`organisation/model`)."""
    return Path(checkpoint).exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1


@functools.cache
def read_config(checkpoint: str) -> dict[str, Any]:
    """config.json of a checkpoint folder; BadInput when it is not one."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        hint = "; run scripts/make_demo_model" if "demo/models" in checkpoint else ""
        raise BadInput(f"{checkpoint}: no such checkpoint folder{hint}")
    file = folder / "config.json"
    if not file.is_file():
        raise BadInput(f"{file}: missing; a checkpoint folder holds config.json and *.safetensors")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file}: not JSON: {error}") from error


def check_quantisation(checkpoint: str, quant: QuantConfig) -> None:
    """Hold config.json's quantization_config against what `quant` expects."""
    found = read_config(checkpoint).get("quantization_config") or {}
    method, bits = found.get("quant_method"), found.get("bits", found.get("w_bit"))
    if (method, bits or 16) != (quant.method, quant.bits):
        is_ = f"{method} with {bits} bits" if method else "not quantised"
        wants = f"{quant.method} with {quant.bits} bits" if quant.method else "an unquantised one"
        raise BadInput(f"{checkpoint}: the checkpoint is {is_}, quant={quant.name} wants {wants}")


def fingerprint(checkpoint: str) -> str:
    """sha256 over names, sizes and contents; of safetensors the header with all shapes and offsets, not the weights
    (hashing 16 GB would take longer than the run)."""
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(checkpoint).iterdir() if p.is_file()):
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        with open(file, "rb") as content:
            digest.update(content.read(_header_size(file) if file.suffix == ".safetensors" else 2**24))
    return digest.hexdigest()


def _header_size(file: Path) -> int:
    with open(file, "rb") as content:
        return 8 + struct.unpack("<Q", content.read(8))[0]


@functools.cache
def image_limits(checkpoint: str) -> Optional[dict[str, int]]:
    """Patch factor and pixel limits of a Qwen2-VL-like image processor: factor, min_pixels, max_pixels; else None."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = Path(checkpoint) / name
        if not file.is_file():
            continue
        data = json.loads(file.read_text(encoding="utf-8"))
        data = data.get("image_processor", data)
        if "merge_size" in data and "patch_size" in data:
            size = data.get("size") or {}
            low = data.get("min_pixels") or size.get("min_pixels") or size.get("shortest_edge") or 56 * 56
            high = data.get("max_pixels") or size.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
            return {"factor": data["patch_size"] * data["merge_size"], "min_pixels": low, "max_pixels": high}
    return None


@functools.cache
def tokenizer(checkpoint: str) -> Any:
    """The fast tokenizer of the folder, or None where there is no tokenizer.json."""
    from tokenizers import Tokenizer

    file = Path(checkpoint) / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.is_file() else None


def estimate_gib(model: ModelConfig, quant: QuantConfig, checkpoint: str) -> Optional[float]:
    """Memory of the weights, GiB: the safetensors on this disk, else the architecture times the bits.

    A quantised layer costs its bits plus a 16-bit scale and a zero of the same bits for every 128 weights.
    """
    if is_folder(checkpoint):
        files = list(Path(checkpoint).glob("*.safetensors"))
        return sum(f.stat().st_size for f in files) / 2**30 if files else None
    if not model.parameters or not model.linear_parameters:
        return None
    per_weight = quant.bits + ((16 + quant.bits) / 128 if quant.method else 0)
    return (model.linear_parameters * per_weight + (model.parameters - model.linear_parameters) * 16) / 8 / 2**30
