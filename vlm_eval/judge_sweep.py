"""Judge a finished sweep, into the same run folders and MLflow runs.

    vlm-eval-judge SWEEP_DIR judge=NAME [judge.KEY=VALUE ...]

The judge becomes a run's main judge where nobody has judged it yet (or with --main), else a further one, whose numbers
are `judge.NAME/*`. Given again after an interruption it asks only for what is missing. Exit codes as of vlm-eval.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, paths, resolvers
from vlm_eval.engines.recorded import recorded_config
from vlm_eval.errors import BadInput
from vlm_eval.judges.agreement_with_people import named_agreement, side_by_side
from vlm_eval.judges.base import Judge
from vlm_eval.judges.people import PEOPLE
from vlm_eval.judges.summary import failures
from vlm_eval.judging import (
    has_judged,
    judge_answers,
    judge_inputs,
    judgements_of,
    judges_of,
    main_judge,
    prefix_of,
)
from vlm_eval.progress import Display, Shown
from vlm_eval.secret_input import guarded, refuse_in_config
from vlm_eval.secrets import mask, mask_file
from vlm_eval.store import RunFolder, lock_alone, read_json, sha256_of
from vlm_eval.sweep import close, locked, track
from vlm_eval.text_table import text_table

ALL = "all"  # runs
ANOTHER_NAME = "give this one a name of its own, judge.name=NAME"


@dataclass(frozen=True)
class Job:
    """One run to be judged: its config with the new judge in it, and the judge built from that."""

    folder: RunFolder
    label: str
    config: DictConfig
    judge: Judge
    main: bool


@guarded("vlm-eval-judge")
def main() -> int:
    parser = argparse.ArgumentParser(
        "vlm-eval-judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("overrides", nargs="+", metavar="judge=NAME", help="and judge.KEY=VALUE")
    parser.add_argument(
        "--main", action="store_true", help="the main judge from now on; the one before is a further one"
    )
    parser.add_argument("--config-dir", type=Path, help="a folder with a judge of one's own, as of vlm-eval")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # this run alone, for the command's own child processes
    asked = parser.parse_intermixed_args()
    sys.path.append(os.getcwd())  # where a class of one's own is looked for
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        node = compose(asked.overrides, asked.config_dir)
        if asked.run:
            # Threads of torch and vLLM can hang in their exit handlers; everything is on the disk already.
            os._exit(judge_one(asked.sweep_dir.resolve(), asked.run, node, asked.main))
        return judge_sweep(asked.sweep_dir.resolve(), node, asked.main)
    except Exception as error:
        if not config.is_about_config(error):
            raise
        said = error if isinstance(error, BadInput) else config.explain_hydra(error)
        print(f"vlm-eval-judge: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlm-eval-judge: stopped; what is judged is kept, the same command goes on from there", file=sys.stderr)
        return 130


def compose(overrides: Sequence[str], config_dir: Optional[Path] = None) -> DictConfig:
    """The judge's part of the config as `vlm-eval` would compose it; what refers to the run's own config stays open."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    for override in overrides:
        if not re.match(r"[+~]*judge[=.@]", override):
            raise BadInput(f"{override}: only judge=NAME and judge.KEY=VALUE can be given; the runs are as they are")
    if not any(override.startswith("judge=") for override in overrides):
        raise BadInput("judge=NAME is missing")
    if config_dir is not None:
        if not config_dir.is_dir():
            raise BadInput(f"--config-dir={config_dir}: no such folder")
        overrides = [*overrides, f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    resolvers.register_resolvers()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        composed = hydra_compose("config", list(overrides))
    refuse_in_config(composed.judge, "judge")
    if composed.judge is None or str(composed.judge.get("_target_")).endswith(".NoJudge"):
        raise BadInput("judge=none judges nothing")
    return OmegaConf.create(OmegaConf.to_container(composed.judge, resolve=False))


def judge_sweep(sweep_dir: Path, node: DictConfig, as_main: bool) -> int:
    """Everything checked first, then run after run; comparison and closing table as at the end of a sweep."""
    sweep = read_json(sweep_dir / "sweep.json")
    if not sweep:
        raise BadInput(f"{sweep_dir}: no sweep.json here; give the folder of a sweep")
    with locked(sweep_dir):  # before all else: a sweep that is being worked on may have no run yet that ended ok
        jobs = [_job(folder, label, node, Path(sweep["cwd"]), as_main) for folder, label in _ended_ok(sweep_dir, sweep)]
        if not jobs:
            raise BadInput(f"{sweep_dir}: no run of this sweep ended ok, there is nothing to judge")
        codes = [_judge_apart(job) if job.judge.environment() else _judge(job, Display(job.label)) for job in jobs]
        if 130 in codes:
            raise KeyboardInterrupt
        _close(sweep_dir, sweep, jobs)
    _say_what_it_gave(jobs, codes)
    return 1 if any(codes) or _nothing_judged(jobs) else 0


def judge_one(sweep_dir: Path, run: str, node: DictConfig, as_main: bool) -> int:
    """The process of one run. What libraries print goes to the run's log, as when the run was made."""
    sweep = read_json(sweep_dir / "sweep.json")
    [(folder, label)] = [(f, label) for f, label in _ended_ok(sweep_dir, sweep) if f.path.name == run]
    display = Display(label)
    display.out = os.fdopen(os.dup(2), "w", encoding="utf-8")
    with open(folder.path / "run.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        return _judge(_job(folder, label, node, Path(sweep["cwd"]), as_main), display)
    except KeyboardInterrupt:
        return 130


def _ended_ok(sweep_dir: Path, sweep: dict[str, Any]) -> list[tuple[RunFolder, str]]:
    """The runs that can be judged, each with how progress calls it."""
    folders = [RunFolder(sweep_dir / point["folder"]) for point in sweep["points"]]
    ok = [folder for folder in folders if folder.status().get("state") == "ok"]
    return [(folder, f"[{number}/{len(ok)}] {folder.path.name}") for number, folder in enumerate(ok, start=1)]


def _job(folder: RunFolder, label: str, node: DictConfig, cwd: Path, as_main: bool) -> Job:
    """BadInput for what would make all judgements of a run fail, or mix two judges under one name."""
    cfg = recorded_config(folder, cwd)
    cfg.judge = node
    cfg = config.validate(cfg)
    judge: Judge = config.build(cfg.judge)
    judge.check()
    known = {name: entry for name, entry in judges_of(folder).items() if has_judged(folder, name)}
    if not judge.remade:
        before, now = known.get(judge.name, {}).get("config"), judge_inputs(cfg)
        other = sorted(k for k in {*now, *(before or now)} if now.get(k) != (before or now).get(k))
        if other:
            raise BadInput(
                f"{folder.path.name}: {judge.name} has judged this run with another judge.{other[0]}; {ANOTHER_NAME}"
            )
        _check_screenshots(folder)
    for name, entry in known.items():
        if name != judge.name and set(entry["names"]) & set(judge.names):
            raise BadInput(
                f"{folder.path.name}: {name} has judged this run under the name {judge.names[0]}; {ANOTHER_NAME}"
            )
    return Job(folder, label, cfg, judge, as_main or main_judge(folder) not in known.keys() - {judge.name})


def _check_screenshots(folder: RunFolder) -> None:
    root = Path(folder.provenance()["data_root"])
    for item in folder.read("items"):
        file = root / item.image
        if item.image_sha256 and file.is_file() and item.image_sha256 != sha256_of(file):
            raise BadInput(f"{file}: is another picture now than the one that {folder.path.name} was asked about")


def _judge_apart(job: Job) -> int:
    """Judge one run in a process of its own, whose end frees a GPU for the next; its exit code."""
    command = [sys.executable, "-m", "vlm_eval.judge_sweep", *sys.argv[1:], "--run", job.folder.path.name]
    # A person's own setting wins.
    code = subprocess.run(command, env={**job.judge.environment(), **os.environ}, stdin=subprocess.DEVNULL).returncode
    if code < 0:
        print(f"{job.label}  killed by {signal.Signals(-code).name}; see its run.log", file=sys.stderr)
    return code


def _judge(job: Job, display: Display) -> int:
    """Judge one run: 0, or 1 with the reason said. All that is judged is kept either way."""
    items = {item.item_id: item for item in job.folder.read("items")}
    root = Path(job.folder.provenance()["data_root"])

    with open(job.folder.path / "run.log", "a", encoding="utf-8") as log:
        if not lock_alone(log):
            print(f"{job.label}  not judged: another process works on this run", file=display.out)
            return 1
        try:
            judge_answers(job.config, items, root, job.folder, Shown(display), job.main)
            return 0
        except Exception as error:  # the other runs are judged nevertheless
            traceback.print_exc(file=log)
            reason = mask(" ".join(str(error).split())) or type(error).__name__
        finally:
            display.end()
            log.flush()
            mask_file(job.folder.path / "run.log")
    print(f"{job.label}  failed in stage judge: {reason}", file=display.out, flush=True)
    return 1


def _close(sweep_dir: Path, sweep: dict[str, Any], jobs: Sequence[Job]) -> None:
    """What stands at the end of a sweep, anew: MLflow's runs, comparison.csv, sweep.json, the closing table."""
    agreement = _agreement(jobs)
    with _standing_in(Path(sweep["cwd"])):  # where relative paths of the tracker and the data hold
        own = {job.folder.path: resolvers.load_config(job.folder.path) for job in jobs}
        tracker = config.build(own[jobs[0].folder.path].tracking)
        for job in jobs:
            track(tracker, own[job.folder.path], job.folder, "vlm-eval-judge")
        pooled = {f"judge.{judge}": found for (judge, run), found in agreement.items() if run == ALL}
        close(sweep_dir, sweep | {"agreement_with_people": pooled}, tracker, "vlm-eval-judge")
    if agreement:
        rows = [[judge, run, *_cells(found)] for (judge, run), found in agreement.items()]
        head = ["judge against people", "run", "answers", "alpha", "correlation", "of ranks", "judge - people", "95 %"]
        print("\n" + text_table(head, rows))


def _agreement(jobs: Sequence[Job]) -> dict[tuple[str, str], dict[str, float]]:
    """(judge, run) -> its agreement with people; run "all": over the answers of all runs together."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name in dict.fromkeys(name for job in jobs for name in judges_of(job.folder) if name != PEOPLE):
        everything = []
        for folder in (job.folder for job in jobs):
            both = (judgements_of(folder, name), judgements_of(folder, PEOPLE))
            pairs = side_by_side(*both, folder.read("answers"))
            everything += pairs
            if pairs:
                found[name, folder.path.name] = named_agreement(pairs)
        if everything:
            found[name, ALL] = named_agreement(everything)
    return found


def _cells(found: dict[str, float]) -> list[str]:
    """A row of the table of agreement."""
    numbers = [_cell(found, f"people_{name}", "{:.3f}") for name in ("alpha", "correlation", "rank_correlation")]
    difference = "people_difference_mean"
    return [
        _cell(found, f"{difference}_n", "{:.0f}"),
        *numbers,
        _cell(found, difference, "{:+.2f}"),
        _interval(found, difference, "{:+.2f}"),
    ]


def _cell(found: dict[str, float], key: str, form: str) -> str:
    """A number of a summary; what is not defined stays empty."""
    return form.format(found[key]) if key in found else ""


def _interval(found: dict[str, float], key: str, form: str) -> str:
    return " to ".join(filter(None, (_cell(found, f"{key}_ci_{end}", form) for end in ("low", "high"))))


def _say_what_it_gave(jobs: Sequence[Job], codes: Sequence[int]) -> None:
    """This judge's own numbers: those of a further judge are not in the closing table."""
    name, rows, said = jobs[0].judge.name, [], []
    for job in jobs:
        found, ratio = job.folder.summary(), f"{prefix_of(job.folder, name)}/match_ratio"
        numbers = [
            _cell(found, ratio, "{:.3f}"),
            _cell(found, f"{ratio}_n", "{:.0f}"),
            _interval(found, ratio, "{:.3f}"),
        ]
        rows.append([job.folder.path.name, "main" if job.main else "further", *numbers])
        if why := failures(judgements_of(job.folder, name)):
            said.append(f"{job.folder.path.name}: {why}")
    print("\n" + text_table([f"judged by {name}", "as", "match ratio", "answers", "95 %"], rows))
    print("\n".join([*said, f"{name}: {codes.count(0)} of {len(codes)} runs judged"]), flush=True)


def _nothing_judged(jobs: Sequence[Job]) -> bool:
    """Whether not one judgement is ok; says why."""
    if any(has_judged(job.folder, job.judge.name) for job in jobs):
        return False
    rows = [j for job in jobs for j in judgements_of(job.folder, job.judge.name)]
    why = failures(rows) or (f"{rows[0].status}: {rows[0].error}" if rows else "")
    print(f"vlm-eval-judge: nothing was judged{why and ', '}{why}", file=sys.stderr)
    return True


@contextlib.contextmanager
def _standing_in(folder: Path) -> Iterator[None]:
    """With that working directory, where it still is."""
    with contextlib.chdir(folder) if folder.is_dir() else contextlib.nullcontext():
        yield


if __name__ == "__main__":
    sys.exit(main())
