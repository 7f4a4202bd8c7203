"""hydra-submitit-launcher's Slurm launcher, for runs that go on where they were and a sweep that hears how each ended.

Hydra loads launchers only from the `hydra_plugins` namespace; the work itself is in vlm_eval.launchers.slurm.
"""

import warnings
from typing import Any, Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
except ImportError:  # the extra `slurm` is not installed, which setup() says
    SlurmLauncher = None


class QuietNamesake(SearchPathPlugin):
    """conf/hydra/launcher/submitit_slurm.yaml has the original's name: its schema is welcome, a warning at each look is
    not. Hydra takes back what a plugin sets while it is imported, so this is done when it next calls one."""

    def manipulate_search_path(self, search_path: Any) -> None:
        warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_slurm' is validated")


class VlmEvalSlurmLauncher(SlurmLauncher or Launcher):
    """Of the original: its parameters, and how a job composes its point."""

    def __init__(self, **params: Any) -> None:
        if SlurmLauncher:
            super().__init__(**params)

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        from vlm_eval.launchers import slurm

        slurm.check_there(installed=SlurmLauncher is not None)
        super().setup(hydra_context=hydra_context, task_function=slurm.job, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from vlm_eval.launchers import slurm

        return slurm.launch(self, self.params, self.config, job_overrides)

    def __call__(self, *arguments: Any) -> JobReturn:
        """In a job's process."""
        from vlm_eval.launchers import slurm

        with slurm.in_a_job():
            return super().__call__(*arguments)
