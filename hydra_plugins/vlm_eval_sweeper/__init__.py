"""Hydra's basic sweeper, with what a sweep of this project needs before its first run and after its last.

Hydra loads sweepers only from the `hydra_plugins` namespace; the work itself is in vlm_eval.sweep.
"""

import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


@dataclass
class VlmEvalSweeperConf:
    _target_: str = "hydra_plugins.vlm_eval_sweeper.VlmEvalSweeper"
    max_batch_size: Optional[int] = None
    params: Optional[Dict[str, str]] = None


ConfigStore.instance().store(group="hydra/sweeper", name="vlm_eval", node=VlmEvalSweeperConf, provider="vlm_eval")


class VlmEvalSweeper(BasicSweeper):
    """Composes and checks every point, writes sweep.json, launches all points, compares what came of them."""

    def sweep(self, arguments: List[str]) -> Any:
        from vlm_eval import preflight, sweep

        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        # One batch: Hydra raises after a batch with a failed job, and later batches would never start.
        [points] = self.split_arguments(overrides, max_batch_size=None)
        expanded = sweep.expand(points, lambda point: loader.load_sweep_config(self.config, point))
        points, composed = [point for point, _ in expanded], [cfg for _, cfg in expanded]
        plans = sweep.check_points(overrides, composed)
        preflight.warn(plans)
        if composed[0].sweep.dry_run:
            print(preflight.dry_run_table([(c.hydra.overrides.task, plan) for c, plan in zip(composed, plans)]))
            sys.exit(0)
        with sweep.running(self.config.hydra.sweep.dir, composed, plans) as outcome:
            self.launcher.launch(points, initial_job_idx=0)
        sys.exit(outcome.exit_code)
