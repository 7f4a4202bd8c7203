"""Everything that can be known to fail is said before the first engine starts."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from vlm_eval import config as configs
from vlm_eval import references
from vlm_eval.engines.base import engine_of
from vlm_eval.errors import BadInput
from vlm_eval.provenance import inputs_hash
from vlm_eval.resume import command_again, sweep_to_resume
from vlm_eval.secret_input import refuse_in_config
from vlm_eval.tasks.base import Task
from vlm_eval.text_table import text_table


@dataclass(frozen=True)
class Plan:
    """What one point would take."""

    items: int
    answers: int
    memory_gib: Optional[float]  # None: cannot be known before the checkpoint is here
    judge_calls: int
    judge_usd: Optional[float]
    answers_usd: Optional[float] = 0.0  # for a model behind an API; None: unknown
    not_scored: tuple[str, ...] = ()  # what cannot be had here, metrics and references, a sentence each
    made_from: Optional[str] = None  # hash of all that the run follows from


_made_from: Optional[str] = None  # of the single run of this process


def made_from() -> Optional[str]:
    """The hash of this process's single run; a finished one whose provenance.json has another is work again."""
    return _made_from


def check(
    cfg: DictConfig,
    run_dir: Optional[str] = None,
    asked: Optional[dict[str, Optional[str]]] = None,
    overrides: Sequence[str] = (),
    placed: str = "alone",
) -> Plan:
    """Data there and images whole, the folder free or of this very run; then what engine, metrics and judge have to
    say of their own chances. `asked` is what metrics of other points have said already: a Hub that does not answer
    takes seconds to say so."""
    asked = {} if asked is None else asked
    _check_statistics(cfg.statistics)
    task: Task = configs.build(cfg.task)
    items, _ = references.read_items(cfg, task)
    engine = engine_of(cfg, task)
    engine.placed = placed
    if run_dir:
        _check_folder(Path(run_dir), overrides)
    usable = [item for item in items if not item.error]
    memory = engine.check(task, usable)
    judge = configs.build(cfg.judge)
    judge.check()
    repeats = len(engine.repeats(task.config.repeats))
    answers, usd_each = len(usable) * repeats, engine.cost(task, usable)
    not_scored = []
    for name, node in cfg.metrics.items():
        key = OmegaConf.to_yaml(node)
        if key not in asked:
            asked[key] = configs.build(node).check()
        not_scored += [f"{name} will not be scored: {asked[key]}"] if asked[key] else []
    not_scored += filter(None, [references.without_reference(items)])
    usd = None if usd_each is None else usd_each * repeats
    made = inputs_hash(cfg, task, engine, items) if run_dir else None
    return Plan(len(items), answers, memory, *judge.cost(answers), usd, tuple(not_scored), made)


def _check_folder(run_dir: Path, overrides: Sequence[str]) -> None:
    """A folder of other overrides is another run's; one of the same is this run's, whatever has changed since."""
    file = run_dir / ".hydra" / "overrides.yaml"
    if file.is_file() and configs.hash8(OmegaConf.load(file)) != configs.hash8(overrides):
        raise BadInput(f"{run_dir}: holds a run of another config, prompt or data; take another folder")


def _check_statistics(asked: configs.StatisticsConfig) -> None:
    if asked.margin is not None and not asked.margin > 0:
        raise BadInput(f"statistics.margin={asked.margin:g}: a margin is above 0")
    if asked.baseline is not None:
        from vlm_eval.points import parse_spec  # here: it needs numpy

        try:
            parse_spec(asked.baseline)
        except BadInput as error:
            raise BadInput(f"statistics.baseline: {error}") from error


def warn(plans: Sequence[Plan]) -> None:
    """Say once what no point will have, where the run goes on without it."""
    for sentence in dict.fromkeys(s for plan in plans for s in plan.not_scored):
        print(f"vlm-eval: {sentence}", file=sys.stderr)


def dry_run_table(points: Sequence[tuple[Sequence[str], Plan]]) -> str:
    """What would run: a row a point, and the sums."""
    rows = [
        [
            " ".join(overrides),
            plan.items,
            plan.answers,
            "unknown" if plan.memory_gib is None else f"{plan.memory_gib:.1f}",
            plan.judge_calls,
            "unknown" if plan.judge_usd is None and plan.judge_calls else f"{plan.judge_usd or 0:.2f}",
        ]
        for overrides, plan in points
    ]
    usd = [plan.answers_usd for _, plan in points]
    paid = " (USD unknown)" if None in usd else f" (up to {sum(usd):.2f} USD)" if any(usd) else ""
    total = (
        f"{len(points)} points, {sum(p.answers for _, p in points)} answers{paid}, "
        f"{sum(p.judge_calls for _, p in points)} judge calls. Nothing was started (sweep.dry_run)."
    )
    return text_table(["overrides", "items", "answers", "memory GiB", "judge calls", "judge USD"], rows) + "\n" + total


class PreflightCallback(Callback):
    """For a single run Hydra makes its folder before our code runs; this comes before that, so that bad input
    leaves nothing behind. A sweep is checked by the sweeper, all points before the first."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        global _made_from
        # Hydra turns a callback's exception into a warning, but lets SystemExit pass.
        try:
            refuse_in_config(config)
            cfg = configs.validate(config)
            if cfg.sweep.resume:
                command = command_again(cfg.sweep.resume, sweep_to_resume(cfg.sweep.resume))
                raise BadInput(
                    f"sweep.resume={cfg.sweep.resume}: a sweep goes on with its own command, -m included: {command}"
                )
            plan = check(cfg, config.hydra.run.dir, overrides=config.hydra.overrides.task)
        except BadInput as error:
            print(f"vlm-eval: {error}", file=sys.stderr)
            sys.exit(2)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        _made_from = plan.made_from
        warn([plan])
        if cfg.sweep.dry_run:
            print(dry_run_table([(config.hydra.overrides.task, plan)]))
            sys.exit(0)
