"""Hydra's launcher for one machine: the runs of a sweep side by side on its cards, as far as they fit.

Hydra loads launchers only from the `hydra_plugins` namespace; the work itself is in vlm_eval.scheduling.
"""

from typing import Any, Callable, List, Optional, Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from omegaconf import DictConfig


class BeginningLauncher(BasicLauncher):
    """Composes each job as Hydra's own launcher does, and begins it where that one would wait for its end."""

    def compose(self, points: Sequence[Sequence[str]], first: int, begin: Callable[[DictConfig], None]) -> None:
        self.task_function = begin
        # One by one: what Hydra returns of a job holds two copies of its config, 0.15 MB, and nobody wants it.
        for number, overrides in enumerate(points, start=first):
            [begun] = super().launch([overrides], number)
            _ = begun.return_value  # raises what begin() has raised, which Hydra keeps there


class LocalGpusLauncher(BeginningLauncher):
    def __init__(self, cards: Optional[List[float]] = None, scoring: int = 1) -> None:
        super().__init__()
        self.cards, self.scoring = cards, scoring

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        from vlm_eval.scheduling.side_by_side import places

        self.places = places(self.cards, config.sweep.prefetch, self.scoring)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from vlm_eval.scheduling.side_by_side import SideBySide

        with SideBySide(self.places, len(job_overrides)) as runs:
            self.compose(job_overrides, initial_job_idx, runs.begin)
        return []
