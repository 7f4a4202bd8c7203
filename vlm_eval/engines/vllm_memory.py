"""How much of a GPU vLLM will take: estimated before anything is loaded, from then on as it was measured.

A run beside others gets this much of its card and no more: `arguments` makes vLLM stay within it, so that an estimate
that was too low costs its own run a second try and never its neighbour.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from vlm_eval import checkpoints, images, paths
from vlm_eval.devices import find_device
from vlm_eval.engines.base import Candidate, Request, first_of_each
from vlm_eval.errors import BadInput
from vlm_eval.provenance import version_of

CONTEXT_GIB = 1.0  # CUDA itself, kernels, cuBLAS, which torch does not count; 0.8 on an H100
ACTIVATIONS_GIB = 4.5  # the largest batch of prompts, pictures and logits, CUDA graphs; 3.0 to 3.7 for 7B on an H100
# Over what was measured once: torch also holds what is free in pieces too small to use, and that is never the same. On
# an H100 two of four engines ran out with half a GiB over what they had taken the time before, 1.6 GiB of it in pieces.
SPARE_GIB = 1.0
TEMPLATE_TOKENS = 64  # what a chat template puts around a prompt, at most
MEASURED = "memory.json"


@dataclass(frozen=True)
class Estimate:
    """GiB of one card."""

    weights: float
    kv_cache: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache + self.activations + CONTEXT_GIB


def estimate(
    config: Any, candidate: Candidate, requests: Sequence[Request], at_once: int, key: str
) -> Optional[Estimate]:
    """Of an engine on one card; None where the checkpoint does not tell its weights before it is here. `key`: key_of()
    the engine."""
    model, quant = candidate.model, candidate.quant
    folder = checkpoints.on_disk(model, quant)
    weights, per_token = checkpoints.estimate_gib(model, quant, folder), checkpoints.kv_bytes_per_token(model, folder)
    if weights is None or not per_token:
        return None
    tokens = tokens_at_once(config, candidate, requests, at_once, folder)
    activations = measured(key)
    return Estimate(
        weights,
        tokens * per_token / 2**30,
        ACTIVATIONS_GIB if activations is None else activations + SPARE_GIB,
    )


def tokens_at_once(
    config: Any, candidate: Candidate, requests: Sequence[Request], at_once: int, folder: Optional[str]
) -> int:
    """Tokens in the KV cache when the longest requests are answered together; at least one whole context, as vLLM
    wants it."""
    repeats = Counter(r.item_id for r in requests)
    each = ((_tokens(config, candidate, r, folder), repeats[r.item_id]) for r in first_of_each(requests))
    lengths = sorted(itertools.chain.from_iterable(itertools.repeat(*one) for one in each), reverse=True)
    return max(config.max_model_len, sum(lengths[:at_once]))


def _tokens(config: Any, candidate: Candidate, request: Request, folder: Optional[str]) -> int:
    """Of one request, prompt and longest answer; a whole context where its prompt cannot be counted."""
    tokenizer, limits = (checkpoints.tokenizer(folder), checkpoints.image_limits(folder)) if folder else (None, None)
    if tokenizer is None or limits is None:
        return config.max_model_len
    width, height = _size(request.image)
    low, high = checkpoints.pixel_limits(candidate.image, limits)
    try:
        visual = images.visual_tokens(height, width, limits["factor"], low, high)
    except BadInput:  # which vLLM will refuse by itself (task.on_bad_item=record)
        return config.max_model_len
    prompt = len(tokenizer.encode(" ".join(_texts(request))).ids) + TEMPLATE_TOKENS + visual
    return min(config.max_model_len, prompt + request.sampling.max_tokens)


@functools.cache
def _size(path: str) -> tuple[int, int]:
    with images.opened(Path(path)) as image:
        return image.size


def _texts(request: Request) -> list[str]:
    found = []
    for message in request.messages:
        content = message["content"]
        found += [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
    return found


def arguments(estimated: Estimate, share_gib: float) -> dict[str, Any]:
    """Of vllm.LLM: no more of the card than the share, all of it that is left for the KV cache."""
    spare = share_gib - estimated.total
    return {
        # With the bytes said vLLM does not look at what is free, where neighbours come and go.
        "kv_cache_memory_bytes": int((estimated.kv_cache + max(0.0, spare)) * 2**30),
        "gpu_memory_utilization": round(share_gib / find_device().total_gib, 4),
    }


def keep_within(share_gib: float) -> None:
    """torch refuses this process more than its share: out of memory is it, not whoever is beside it."""
    import torch

    # Of what CUDA gives out, which is a little less than what nvidia-smi says.
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, (share_gib - CONTEXT_GIB) / total))


# ------------------------------------------------------------------------------------------------ what was measured


def key_of(config: Any, candidate: Candidate, at_once: int, fast: bool, answers: int) -> str:
    """Of all that the activations follow from."""
    folder = checkpoints.on_disk(candidate.model, candidate.quant)
    held = checkpoints.fingerprint(folder) if folder else checkpoints.locate(candidate.model, candidate.quant)
    facts = [held, version_of("vllm"), find_device().name, candidate.image.max_pixels]
    facts += [min(at_once, answers), fast, list(config.memory_at)]
    facts += [config.max_model_len, config.dtype, config.extra]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]


def measured(key: str) -> Optional[float]:
    """GiB of activations and graphs, as an earlier run of the same engine had them."""
    return _read().get(key)


def remember(key: str, activations_gib: float) -> None:
    """The most that was ever measured; two runs at once may lose one of the two, and measure it again."""
    known = dict(_read())
    known[key] = round(max(activations_gib, known.get(key, 0.0)), 3)
    _write(known)


def _write(known: Mapping[str, float]) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=MEASURED)
    with os.fdopen(handle, "w") as out:
        json.dump(known, out, indent=1, sort_keys=True)
    os.replace(name, file)


def forget(key: str) -> None:
    """What was measured was too little: the next run takes the first guess again."""
    known = dict(_read())
    if known.pop(key, None) is not None:
        _write(known)


def _read() -> Mapping[str, float]:
    try:
        return json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}


def _file() -> Path:
    return paths.cache() / MEASURED
