"""What a checkpoint folder says of itself, read without torch: quantisation, sizes, image limits, tokenizer."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

from vlm_eval.config import ModelConfig, QuantConfig
from vlm_eval.errors import BadInput


def locate(model: ModelConfig, quant: QuantConfig) -> str:
    """The checkpoint that `quant` names for this model: a folder or a Hugging Face name."""
    if model.path:
        return model.path
    if not model.checkpoints:
        raise BadInput("model.path: no value given; set it to a checkpoint folder, model.path=FOLDER")
    if quant.name not in model.checkpoints:
        raise BadInput(
            f"quant={quant.name}: {model.name} has no such checkpoint; it has {', '.join(model.checkpoints)}"
        )
    return model.checkpoints[quant.name]


def is_folder(checkpoint: str) -> bool:
    """Whether this is a path, there or not, rather than a name on the Hub (`organisation/model`)."""
    return Path(checkpoint).exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1


def on_disk(model: ModelConfig, quant: QuantConfig) -> Optional[str]:
    """The checkpoint's folder on this machine: itself, or its snapshot in the Hugging Face cache; None before download.

    BadInput for a path that is not there, and for a name that would have to be fetched while the Hub is switched off.
    """
    checkpoint = locate(model, quant)
    if model.path or is_folder(checkpoint):
        read_config(_there(checkpoint, "model.path=" if model.path else ""))
        return checkpoint
    from huggingface_hub import constants, try_to_load_from_cache

    file = try_to_load_from_cache(checkpoint, "config.json", revision=model.revision)
    if isinstance(file, str):
        return str(Path(file).parent)
    if constants.HF_HUB_OFFLINE:
        raise BadInput(f"{checkpoint}: not in the Hugging Face cache, and HF_HUB_OFFLINE is set; download it first")
    return None


def fetch(model: ModelConfig, quant: QuantConfig) -> str:
    """The checkpoint's folder, downloaded from the Hub if it is not here yet."""
    folder = on_disk(model, quant)
    if folder is None:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(locate(model, quant), revision=model.revision)
    return folder


def _there(folder: str, option: str = "") -> str:
    """The folder; BadInput, which names the option that it was given with, where there is none."""
    if not Path(folder).is_dir():
        raise BadInput(f"{option}{folder}: no such checkpoint folder")
    return folder


@functools.cache
def read_config(folder: str) -> dict[str, Any]:
    """config.json of a checkpoint folder; BadInput when it is not one."""
    file = Path(_there(folder)) / "config.json"
    if not file.is_file():
        raise BadInput(f"{file}: missing; a checkpoint folder holds config.json and *.safetensors")
    return _read_object(file)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadInput(f"{file}: not a JSON object")
    return data


def check_quantisation(folder: str, quant: QuantConfig) -> None:
    """Hold config.json's quantization_config against what `quant` expects."""
    found = read_config(folder).get("quantization_config") or {}
    method, bits = found.get("quant_method"), found.get("bits", found.get("w_bit"))
    if (method, bits or 16) != (quant.method, quant.bits):
        is_ = f"{method} with {bits} bits" if method else "not quantised"
        wants = f"{quant.method} with {quant.bits} bits" if quant.method else "an unquantised one"
        raise BadInput(f"{folder}: the checkpoint is {is_}, quant={quant.name} wants {wants}")


class Pickled(BadInput):
    """A checkpoint is a pickle, which can run code when it is loaded, and was not asked for as one."""


def refuse_pickle(name: str, way_out: str, files: Optional[Iterable[str]] = None) -> None:
    """Pickled for a checkpoint whose weights are one and not safetensors: a folder, or a name with its `files`."""
    files = sorted(files if files is not None else (file.name for file in Path(name).iterdir()))
    pickles = [f for f in files if f.endswith((".bin", ".pt", ".pth"))]
    if pickles and not any(f.endswith(".safetensors") for f in files):
        raise Pickled(
            f"{name}: its weights are {pickles[0]}, a pickle, which can run code when it is loaded; convert them to "
            f"safetensors, or {way_out}"
        )


@functools.cache
def warn_of_code(option: str, checkpoint: str) -> None:
    """Say, once for a sweep, that code of a checkpoint will run."""
    print(f"vlm-eval: {option}=true: Python code that comes with {checkpoint} runs on this machine", file=sys.stderr)


def fingerprint(folder: str) -> str:
    """sha256 over names, sizes and contents; of safetensors the header with all shapes and offsets, not the weights
    (hashing 16 GB would take longer than the run). BadInput where there is no such folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(_there(folder)).iterdir() if p.is_file()):
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        with open(file, "rb") as content:
            digest.update(content.read(_header_size(file) if file.suffix == ".safetensors" else 2**24))
    return digest.hexdigest()


def _header_size(file: Path) -> int:
    """With the 8 bytes that tell it; a torn file is taken whole."""
    whole = file.stat().st_size
    with open(file, "rb") as content:
        size = content.read(8)
    return min(8 + struct.unpack("<Q", size)[0], whole) if len(size) == 8 else whole


@functools.cache
def image_limits(folder: str) -> Optional[dict[str, int]]:
    """Patch factor and pixel limits of a Qwen2-VL-like image processor: factor, min_pixels, max_pixels; else None."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = Path(folder) / name
        if not file.is_file():
            continue
        data = _read_object(file)
        data = data.get("image_processor", data)
        if "merge_size" in data and "patch_size" in data:
            size = data.get("size") or {}
            low = data.get("min_pixels") or size.get("min_pixels") or size.get("shortest_edge") or 56 * 56
            high = data.get("max_pixels") or size.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
            return {"factor": data["patch_size"] * data["merge_size"], "min_pixels": low, "max_pixels": high}
    return None


def pixel_limits(asked: Any, limits: Mapping[str, int]) -> tuple[int, int]:
    """(min_pixels, max_pixels): what task.image asks for, else the image processor's own, from image_limits()."""
    return asked.min_pixels or limits["min_pixels"], asked.max_pixels or limits["max_pixels"]


@functools.cache
def tokenizer(folder: str) -> Any:
    """The fast tokenizer of the folder, or None where there is no tokenizer.json."""
    from tokenizers import Tokenizer

    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the one class that tokenizers raises
        raise BadInput(f"{file}: not a tokenizer: {error}") from error


def estimate_gib(model: ModelConfig, quant: QuantConfig, folder: Optional[str]) -> Optional[float]:
    """Memory of the weights, GiB: the safetensors on this disk, else the architecture times the bits; None: unknown.

    A quantised layer costs its bits plus a 16-bit scale and a zero of the same bits for every 128 weights.
    """
    if folder and (files := list(Path(folder).glob("*.safetensors"))):
        return sum(f.stat().st_size for f in files) / 2**30
    if not model.parameters or not model.linear_parameters:
        return None
    per_weight = quant.bits + ((16 + quant.bits) / 128 if quant.method else 0)
    return (model.linear_parameters * per_weight + (model.parameters - model.linear_parameters) * 16) / 8 / 2**30


def kv_bytes_per_token(model: ModelConfig, folder: Optional[str]) -> int:
    """Keys and values of every layer for one token, 2 bytes each; 0 where neither folder nor YAML tells."""
    if not folder:
        return model.kv_bytes_per_token or 0
    config = read_config(folder)
    text = config.get("text_config", config)
    try:
        heads = text["num_attention_heads"]
        head = text.get("head_dim") or text["hidden_size"] // heads
        return 2 * text["num_hidden_layers"] * text.get("num_key_value_heads", heads) * head * 2
    except KeyError:
        return 0
