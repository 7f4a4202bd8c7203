"""The runs of a sweep as a pipeline: a thread for each, which follows its process through the stages.

While one run's engine works, the one before is scored and judged and the next one's process waits, prepared, for the
card. All runs share the cards there are (scheduler.py) and the imports (forks.py).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Sequence

from omegaconf import DictConfig

from vlm_eval import devices, launch, signals
from vlm_eval.config import validate
from vlm_eval.engines.base import module_of
from vlm_eval.errors import BadInput
from vlm_eval.job import Job
from vlm_eval.scheduling.forks import Forks, start_anew
from vlm_eval.scheduling.scheduler import Place, Places, Stopped

IMPORTS_LOG = "imports.log"  # what was said while they were made; in the sweep's folder
END_WITHIN_S = 1.5  # for the threads to write how their runs ended, when the processes are gone


def places(sizes_gib: Optional[Sequence[float]], prefetch: int, scoring: int) -> Places:
    """The cards of this machine, with as much of each as is free, or as `sizes_gib` says (BadInput if they are fewer).

    On a machine without any, `sizes_gib` stands for cards that nobody opens, as tests have them."""
    is_list = isinstance(sizes_gib, Sequence) and all(isinstance(gib, (int, float)) for gib in sizes_gib)
    if sizes_gib is not None and not is_list:
        raise BadInput(f"hydra.launcher.cards={sizes_gib}: a list of GiB, one for each card, such as [40,80]")
    on_cpu = devices.find_device().kind == "cpu"
    cards = [] if on_cpu else devices.cards()
    answering = {"answers": devices.answers} if cards else {}
    if sizes_gib is not None:
        if cards and len(sizes_gib) > len(cards):
            raise BadInput(f"hydra.launcher.cards={list(sizes_gib)}: {len(cards)} cards are here")
        cards = cards or [devices.Card(str(number), gib) for number, gib in enumerate(sizes_gib)]
        cards = [replace(card, gib=gib) for card, gib in zip(cards, sizes_gib)]
        on_cpu = False
    return Places(cards, on_cpu, prefetch, scoring, **answering)


class SideBySide:
    """Context manager around the composing of all jobs; its end waits for all runs."""

    def __init__(self, places: Places, runs: int):
        self._places = places
        self._runs = runs
        self._forks: Optional[Forks] = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "SideBySide":
        return self

    def begin(self, cfg: DictConfig) -> None:
        """Hydra's task function: starts the run that it stands for, as soon as there is room for its process."""
        job = Job.current(cfg)
        if self._forks is None and self._runs > 1:
            self._forks = _forks(cfg, job.run_dir.parent / IMPORTS_LOG)
        place = self._places.begin()
        thread = threading.Thread(target=self._follow, args=(job, place), name=job.run_dir.name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _follow(self, job: Job, place: Place) -> None:
        try:
            job.run(place=place, start=self._forks.start if self._forks else start_anew)
        except Stopped:
            pass  # its folder says so
        finally:
            place.end()

    def __exit__(self, *_: Any) -> None:
        try:
            if not signals.interrupted():
                for thread in self._threads:
                    thread.join()
        finally:
            if signals.interrupted():
                self._places.stop()
                launch.stop_all()
                for thread in self._threads:
                    thread.join(END_WITHIN_S)
            if self._forks:
                self._forks.close()


def _forks(cfg: DictConfig, log: Path) -> Optional[Forks]:
    """With the imports of the first run's engine; None for one that has none that take long."""
    cfg = validate(cfg)
    engine = module_of(cfg)
    modules = engine.imports_ahead() if hasattr(engine, "imports_ahead") else ()
    if not modules:
        return None
    return Forks(modules, launch.environment(cfg), log)
