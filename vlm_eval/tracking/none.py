"""No tracker: the files are all there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import DictConfig

from vlm_eval.store import RunFolder


@dataclass
class NoTrackingConfig:
    _target_: str = "???"


class NoTracking:
    def __init__(self, config: NoTrackingConfig):
        pass

    def begin_sweep(self, sweep: dict[str, Any], folder: str) -> Optional[str]:
        return None

    def log_run(self, cfg: DictConfig, folder: RunFolder) -> Optional[str]:
        return None

    def end_sweep(self, sweep: dict[str, Any], folder: str) -> None:
        pass

    def how_to_open(self) -> str:
        return ""
