"""Everything that can be known to fail is said before the first engine starts."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from vlm_eval import checkpoints, config, images
from vlm_eval.devices import find_device
from vlm_eval.errors import BadInput
from vlm_eval.rows import Item
from vlm_eval.tasks.base import Task

RUNTIME_GIB = 1.5  # python, torch and vLLM themselves, before any weights (0.9 to 1.0 measured on a CPU)


@dataclass(frozen=True)
class Plan:
    """What one point would take."""

    items: int
    answers: int
    memory_gib: Optional[float]  # None: cannot be known before the checkpoint is here
    judge_calls: int
    judge_usd: Optional[float]


def check(cfg: DictConfig) -> Plan:
    """Data there, images open, checkpoint there and what `quant` says, prompts fit, memory plausible, keys there."""
    resume = cfg.sweep.resume
    if resume and not (Path(resume) / "sweep.json").is_file():
        raise BadInput(f"sweep.resume={resume}: no sweep.json there; give the folder of an earlier sweep")
    task: Task = config.build(cfg.task)
    items = task.items()
    usable = [item for item in items if not item.error]
    memory = _check_candidate(cfg, task, usable) if OmegaConf.select(cfg, "engine.max_model_len") else None
    judge = config.build(cfg.judge)
    judge.check()
    answers = len(usable) * task.config.repeats
    return Plan(len(items), answers, memory, *judge.cost(answers))


def _check_candidate(cfg: DictConfig, task: Task, items: list[Item]) -> Optional[float]:
    model, quant = config.model_and_quant(cfg)
    folder = checkpoints.on_disk(checkpoints.locate(model, quant), model.revision)
    if folder:
        checkpoints.check_quantisation(folder, quant)
        _check_lengths(cfg, task, items, folder)
    weights = checkpoints.estimate_gib(model, quant, folder)
    return None if weights is None else _check_memory(cfg, weights, checkpoints.kv_bytes_per_token(model, folder))


def _check_lengths(cfg: DictConfig, task: Task, items: list[Item], folder: str) -> None:
    """Words of the prompt, visual tokens and the longest answer, against engine.max_model_len."""
    tokenizer, limits = checkpoints.tokenizer(folder), checkpoints.image_limits(folder)
    if tokenizer is None or limits is None:
        return
    room = cfg.engine.max_model_len
    low, high = (
        task.config.image.min_pixels or limits["min_pixels"],
        task.config.image.max_pixels or limits["max_pixels"],
    )
    if low > high:
        raise BadInput(f"task.image.min_pixels={low} is over max_pixels={high}")
    for item in items:
        try:
            height, width = images.smart_resize(item.height, item.width, limits["factor"], low, high)
        except BadInput as error:
            raise BadInput(f"{task.image_path(item)}: {error}") from error
        visual = height * width // limits["factor"] ** 2
        text = len(tokenizer.encode(task.prompt_text(item)).ids)
        needed = text + visual + task.config.sampling.max_tokens
        if needed > room:
            raise BadInput(
                f"{item.item_id}: its prompt of {text} text and {visual} visual tokens and an answer of up to "
                f"{task.config.sampling.max_tokens} need {needed}, engine.max_model_len={room}; raise it, or lower "
                "task.image.max_pixels or task.sampling.max_tokens"
            )


def _check_memory(cfg: DictConfig, weights_gib: float, kv_bytes_per_token: int) -> float:
    """Weights, the KV cache of one whole context and the runtime, against the device."""
    device = find_device()
    kv = kv_bytes_per_token * cfg.engine.max_model_len / 2**30
    if device.kind == "cpu":
        kv = max(kv, cfg.engine.get("cpu_kv_cache_gib", 0))
    cards = cfg.engine.get("tensor_parallel_size", 1) if device.kind == "cuda" else 1
    needed = (weights_gib + kv) / cards + RUNTIME_GIB
    there = device.total_gib * (cfg.engine.get("gpu_memory_utilization", 1.0) if device.kind == "cuda" else 1.0)
    if needed > there:
        raise BadInput(
            f"model={cfg.model.name} quant={cfg.quant.name}: needs about {needed:.1f} GiB (weights {weights_gib:.1f}, "
            f"KV cache {kv:.1f}), {device.name} offers {there:.1f}; take a smaller model or quantisation, or lower "
            "engine.max_model_len"
        )
    return needed


class PreflightCallback(Callback):
    """For a single run Hydra makes its folder before our code runs; this comes before that, so that bad input
    leaves nothing behind. A sweep is checked by the sweeper, all points before the first."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        from vlm_eval.config import validate
        from vlm_eval.sweep import dry_run_table

        # Hydra turns a callback's exception into a warning, but lets SystemExit pass.
        try:
            cfg = validate(_without_hydra(config))
            plan = check(cfg)
        except BadInput as error:
            print(f"vlm-eval: {error}", file=sys.stderr)
            sys.exit(2)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        if cfg.sweep.dry_run:
            print(dry_run_table([(config.hydra.overrides.task, plan)]))
            sys.exit(0)


def _without_hydra(cfg: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
