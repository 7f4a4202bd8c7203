"""What can be known to fail before vLLM starts: the checkpoint, the lengths of prompts, the memory. No torch here."""

from __future__ import annotations

import math
import os
from typing import Optional, Sequence

from vlm_eval import checkpoints, images
from vlm_eval.devices import Device, card_in_use, cards, find_device
from vlm_eval.engines.base import Candidate
from vlm_eval.errors import BadInput
from vlm_eval.provenance import version_of
from vlm_eval.rows import Item
from vlm_eval.tasks.base import Task

RUNTIME_GIB = 1.5  # python, torch and vLLM themselves, before any weights (0.9 to 1.0 measured on a CPU)
# Among the further arguments they would go past what their option checks or sees to.
OPTIONS_OF_THEIR_OWN = {
    "trust_remote_code": "model.trust_remote_code",
    "load_format": "engine.load_format",
    "enable_prefix_caching": "engine.prefix_cache",
}
NO_ADAPTERS = "default_mm_loras: requests are made without adapters; merge it into the checkpoint"
MARGIN_GIB = 0.5  # the CUDA context of the process itself is taken before vLLM looks


def check(config, candidate: Candidate, task: Task, items: Sequence[Item], placed: str = "alone") -> Optional[float]:
    """Checkpoint there and what `quant` says, prompts fit, memory plausible; GiB needed, None when unknown.

    `placed` is Engine's: a machine without cards says nothing of those elsewhere."""
    for key, option in OPTIONS_OF_THEIR_OWN.items():
        if key in config.extra:
            raise BadInput(f"engine.extra.{key}: it has an option of its own, {option}")
    if "default_mm_loras" in config.extra:
        raise BadInput(f"engine.extra.{NO_ADAPTERS}")
    on_cpu = find_device().kind == "cpu" and not _says_nothing(placed)
    if on_cpu and version_of("vllm"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = (
            "nvidia-smi shows none" if visible is None else f"CUDA_VISIBLE_DEVICES={visible!r} names none that is there"
        )
        raise BadInput(f"engine=vllm: this vLLM needs a GPU: {why}")
    if config.start not in ("auto", "fast", "full"):
        raise BadInput(f"engine.start={config.start}: auto, fast or full")
    _check_cards(config, on_cpu)
    if config.memory_at and not 0 < min(config.memory_at) <= max(config.memory_at) < config.max_model_len:
        raise BadInput(
            f"engine.memory_at={list(config.memory_at)}: each is at least 1 and under engine.max_model_len, "
            f"{config.max_model_len}"
        )
    _check_load(config)
    model, quant = candidate.model, candidate.quant
    folder = checkpoints.on_disk(model, quant)
    check_code(config, candidate, folder)
    if folder:
        checkpoints.check_quantisation(folder, quant)
        _check_lengths(config, task, items, folder)
    return check_memory(config, candidate, placed)


def _says_nothing(placed: str) -> bool:
    """Of the cards and the memory that a run will have: this machine has no card, and another runs it."""
    return placed == "elsewhere" and find_device().kind == "cpu"


def _check_cards(config, on_cpu: bool) -> None:
    if min(config.tensor_parallel_size, config.pipeline_parallel_size) < 1:
        raise BadInput("engine.tensor_parallel_size, engine.pipeline_parallel_size: at least 1")
    if config.pipeline_parallel_size > 1 and on_cpu:  # its second worker raises at the first request (vLLM 0.32)
        raise BadInput("engine.pipeline_parallel_size: vLLM has none on a CPU; engine.tensor_parallel_size works there")
    if config.cards > 1 and config.memory_at:
        raise BadInput("engine.memory_at: measured on one card; without tensor and pipeline parallel engines")
    if find_device().kind == "cuda" and 1 < config.cards > (here := len(cards())):
        raise BadInput(
            f"engine.tensor_parallel_size={config.tensor_parallel_size} x engine.pipeline_parallel_size="
            f"{config.pipeline_parallel_size} ask for {config.cards} cards, {here} are here"
        )


def _check_load(config) -> None:
    for key, least in (("load", 1), ("rates", 0)):
        values = getattr(config, key)
        for value in values:
            if not (math.isfinite(value) and value > 0):
                raise BadInput(f"engine.{key}={value:g}: {'at least 1' if least else 'above 0'}")
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise BadInput(f"engine.{key}: {twice[0]:g} stands there twice")
    if config.load_requests < 1:
        raise BadInput(f"engine.load_requests={config.load_requests}: at least 1")


def check_code(config, candidate: Candidate, folder: Optional[str]) -> None:
    """BadInput for weights that could run code when they are loaded; what may run, as it was asked for, is said."""
    if folder and config.load_format == "safetensors":
        checkpoints.refuse_pickle(folder, "engine.load_format=pt loads them all the same")
    if candidate.model.trust_remote_code:
        where = checkpoints.locate(candidate.model, candidate.quant)
        checkpoints.warn_of_code("model.trust_remote_code", where)


def check_memory(config, candidate: Candidate, placed: str = "alone") -> Optional[float]:
    """BadInput where it is too little, with the numbers, before anything is loaded; GiB needed, None when unknown."""
    model, quant = candidate.model, candidate.quant
    folder = checkpoints.on_disk(model, quant)
    weights = checkpoints.estimate_gib(model, quant, folder)
    if weights is None:
        return None
    kv = checkpoints.kv_bytes_per_token(model, folder)
    return _check_memory(config, f"model={model.name} quant={quant.name}", weights, kv, placed)


def _check_lengths(config, task: Task, items: Sequence[Item], folder: str) -> None:
    """Words of the prompt, visual tokens and the longest answer, against max_model_len."""
    tokenizer, limits = checkpoints.tokenizer(folder), checkpoints.image_limits(folder)
    if tokenizer is None or limits is None:
        return
    image, longest, room = task.config.image, task.config.sampling.max_tokens, config.max_model_len
    low, high = checkpoints.pixel_limits(image, limits)
    if low > high:
        raise BadInput(f"task.image.min_pixels={low} is over max_pixels={high}")
    if task.config.on_bad_item == "record":
        return  # vLLM refuses such a request by itself, and its reason is kept with the answer
    for item in items:
        try:
            visual = images.visual_tokens(item.height, item.width, limits["factor"], low, high)
        except BadInput as error:
            raise BadInput(f"{task.image_path(item)}: {error}") from error
        text = len(tokenizer.encode(task.prompt_text(item)).ids)
        if text + visual + longest > room:
            raise BadInput(
                f"{item.item_id}: its prompt of {text} text and {visual} visual tokens and an answer of up to "
                f"{longest} need {text + visual + longest}, engine.max_model_len={room}; raise it, or lower "
                "task.image.max_pixels or task.sampling.max_tokens"
            )


def _check_memory(config, what: str, weights_gib: float, kv_bytes_per_token: int, placed: str) -> float:
    """Weights, the KV cache of one whole context and the runtime, against the device."""
    device = find_device()
    kv = kv_bytes_per_token * config.max_model_len / 2**30
    if device.kind == "cpu":
        kv = max(kv, config.cpu_kv_cache_gib)
        needed, there = weights_gib + kv + RUNTIME_GIB, device.total_gib
    else:
        needed = (weights_gib + kv) / config.cards + RUNTIME_GIB
        there = device.total_gib * config.gpu_memory_utilization
    takes = f"{what}: needs about {needed:.1f} GiB (weights {weights_gib:.1f}, KV cache {kv:.1f})"
    if _says_nothing(placed):
        return needed
    if needed > there:
        raise BadInput(
            f"{takes}, {device.name} offers {there:.1f}; take a smaller model or quantisation, or lower "
            "engine.max_model_len (on a CPU also engine.cpu_kv_cache_gib)"
        )
    if device.kind == "cuda" and placed == "shared" and config.cards == 1:
        _check_free_somewhere(takes, needed)
    elif device.kind == "cuda":
        _check_free(config, takes, needed, device)
    return needed


def fraction(free_gib: float) -> float:
    """Of the whole card, as gpu_memory_utilization wants it, where so much of it is free."""
    return math.floor((free_gib - MARGIN_GIB) / find_device().total_gib * 100) / 100


def _check_free_somewhere(takes: str, needed: float) -> None:
    """What a sweep's launcher can give it is a share of a card, of what is free there."""
    most = max((card.gib for card in cards()), default=needed)
    if needed > most:
        raise BadInput(
            f"{takes}, and no visible card has more than {most:.1f} free; the rest is held by other processes. "
            "End them, or take a smaller engine.max_model_len, model or quantisation"
        )


def _check_free(config, takes: str, needed: float, device: Device) -> None:
    """vLLM takes its share of the whole card and ends where that is not free, after the weights were read from disk."""
    card, wanted = card_in_use(), device.total_gib * config.gpu_memory_utilization
    if card is None or wanted <= card.free_gib:
        return
    fits = fraction(card.free_gib)
    if fits * device.total_gib >= needed:
        way_out = f"engine.gpu_memory_utilization={fits:g} would fit"
    else:
        way_out = "a smaller engine.max_model_len, model or quantisation needs less"
    held = "; ".join(card.holders) or "processes that nvidia-smi does not show here"
    raise BadInput(
        f"{takes}, engine.gpu_memory_utilization={config.gpu_memory_utilization:g} asks for {wanted:.1f} of "
        f"{device.name}'s {device.total_gib:.1f}, and {card.free_gib:.1f} are free; the rest is held by {held}. "
        f"End them, or: {way_out}"
    )
