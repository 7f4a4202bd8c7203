"""Hydra's launcher for a Ray cluster.

Hydra loads launchers only from the `hydra_plugins` namespace; the work itself is in vlm_eval.launchers.ray.
"""

from typing import Any, Sequence

from hydra.core.utils import JobReturn

from hydra_plugins.vlm_eval_launcher import BeginningLauncher


class VlmEvalRayLauncher(BeginningLauncher):
    def __init__(self, **params: Any) -> None:
        super().__init__()
        self.params = params

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        from vlm_eval.launchers.ray import Tasks

        self.tasks = Tasks(self.params)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        with self.tasks as tasks:
            self.compose(job_overrides, initial_job_idx, tasks.begin)
        return []
