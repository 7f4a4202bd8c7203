"""The project's vLLM engine in this process, as a run has it."""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, paths, resolvers
from vlm_eval.engines import vllm
from vlm_eval.engines.base import engine_of
from vlm_eval.rows import Item


def started(overrides: Sequence[str]) -> tuple[DictConfig, Any, Mapping[str, Item], Any]:
    """The config, its task, the task's items by id, and the engine."""
    resolvers.register_resolvers()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        cfg = config.validate(compose("config", list(overrides)))
    # Before torch is imported, as vlm_eval.launch does for a run's process.
    os.environ.update(vllm.environment(OmegaConf.to_object(cfg.engine)))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    task = config.build(cfg.task)
    engine = engine_of(cfg, task)
    engine.start()
    return cfg, task, {item.item_id: item for item in task.items()}, engine


def forget_prepared(llm: Any) -> None:
    """What it has prepared of pictures, and what its vision tower has made of them."""
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()
