"""One Hydra job: which run of which sweep it is, and that it never raises."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig

from vlm_eval.config import validate
from vlm_eval.errors import one_line
from vlm_eval.launch import failed, launch
from vlm_eval.preflight import made_from
from vlm_eval.store import RunFolder, read_json


@dataclass(frozen=True)
class Job:
    cfg: DictConfig  # as Hydra composed it
    run_dir: Path
    label: str
    made_from: Optional[str]  # hash of what the run follows from, as the pre-flight found it

    @classmethod
    def current(cls, cfg: DictConfig) -> "Job":
        """The one that Hydra runs now."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        run_dir = Path(hydra.runtime.output_dir)
        if hydra.mode == RunMode.RUN:
            return cls(cfg, run_dir, run_dir.name, made_from())
        # Of a sweep its file tells: this may be another process, or another machine, than the one that checked it.
        points = read_json(run_dir.parent / "sweep.json")["points"]
        mine = next((p for p in points if p["folder"] == run_dir.name), {})
        label = f"[{hydra.job.num + 1}/{len(points)}] {run_dir.name}"
        return cls(cfg, run_dir, label, mine.get("inputs_sha256"))

    def run(self, **where: Any) -> dict[str, Any]:
        """status.json when it has ended; `where`: launch()'s place and start. Only a signal raises."""
        try:
            return launch(validate(self.cfg), self.run_dir, self.label, self.made_from, **where)
        except Exception as error:  # before the run's process began; Hydra would drop it
            status = failed(RunFolder(self.run_dir), "start", one_line(error, 1000))
            print(f"{self.label}  failed in stage start: {status['error']}", file=sys.stderr)
            return status
