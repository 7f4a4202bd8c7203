"""One run, in a process of its own: items -> answers -> scores -> judgements -> summary -> tracking.

    python -m vlm_eval.run RUN_DIR

reads RUN_DIR/.hydra/config.yaml and does what is not yet in the folder. Each stage reads rows and writes rows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from vlm_eval import config, references, resolvers, secrets
from vlm_eval.engines.base import Engine, engine_of
from vlm_eval.errors import one_line
from vlm_eval.generate import EngineDied, generate
from vlm_eval.judging import judge_answers
from vlm_eval.load import measure_load
from vlm_eval.progress import Reporter
from vlm_eval.provenance import environment_facts, inputs_hash
from vlm_eval.rows import Item
from vlm_eval.scheduling.parent import end_own_group, end_with_parent, is_orphan
from vlm_eval.scoring import score
from vlm_eval.signals import STOPPED
from vlm_eval.store import RunFolder, lock_alone
from vlm_eval.tasks.base import Task

BY_SIGNAL = 130  # exit code of a run that one has ended


def run(cfg: DictConfig, folder: RunFolder, report: Reporter) -> None:
    """The stages, in order."""
    task: Task = config.build(cfg.task)
    engine = engine_of(cfg, task)
    items = read_items(cfg, task, engine, folder, report)
    if generate(cfg, task, engine, items, folder, report).get("process_ends"):
        return report.handed_over()
    if measure_load(cfg, task, engine, items, folder, report).get("process_ends"):
        return report.handed_over()
    score(cfg, items, folder, report)
    judge_answers(cfg, items, Path(task.config.data.root), folder, report)
    track(cfg, task, folder, report)


def read_items(cfg: DictConfig, task: Task, engine: Engine, folder: RunFolder, report: Reporter) -> dict[str, Item]:
    report("items")
    items, reference_facts = references.read_items(cfg, task)
    folder.replace("items", items)
    folder.provenance(
        inputs_sha256=inputs_hash(cfg, task, engine, items),  # rows of other inputs are told by their own addresses
        data_root=str(Path(task.config.data.root).resolve()),
        **environment_facts(),
        **task.facts(),
        **reference_facts,
    )
    report("items", len(items), len(items), _bad(items))
    return {item.item_id: item for item in items}


def _bad(items: list[Item]) -> str:
    bad = sum(1 for item in items if item.error)
    return f"{bad} cannot be asked (task.on_bad_item=record)" if bad else ""


def track(cfg: DictConfig, task: Task, folder: RunFolder, report: Reporter) -> None:
    """Tell the tracker. The files are complete before this; a tracker that fails is said, and loses nothing."""
    report("track")
    folder.set_status("ok")
    try:
        secrets.mask_file(folder.path / "run.log")  # it goes to MLflow
        folder.set_status("ok", mlflow_run_id=config.build(cfg.tracking).log_run(cfg, folder))
    except Exception as error:  # whatever the server does, the results are in the files
        traceback.print_exc()
        folder.set_status("ok", tracking=f"not tracked: {one_line(error, 987)}")


def main(run_dir: str) -> int:
    """The process: status.json says how it ended; stdout is the parent's pipe, all chatter goes to the log."""
    parent = end_with_parent()
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    folder, report = RunFolder(run_dir), Reporter(pipe, sys.stdin if parent else None)
    lock = open(folder.path / "run.log", "a")
    if not lock_alone(lock):
        print(f"{folder.path}: another process works on this run", file=sys.stderr)
        return 3
    folder.set_status("running", "start")
    for sentence in folder.mend():
        print(sentence, file=sys.stderr)

    stopped = []

    def interrupt(*_: object) -> None:
        stopped.append(True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what it interrupts may be ended only once
        # Said at once: stopping the engine may take longer than the parent waits.
        with contextlib.suppress(OSError):
            folder.set_status("interrupted", report.stage, STOPPED)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        cfg = resolvers.load_config(folder.path)
        run(cfg, folder, report)
    except KeyboardInterrupt:
        return BY_SIGNAL
    except BaseException as error:  # whatever it was, its reason is kept
        if stopped:  # a library has made another exception of it
            return BY_SIGNAL
        died = isinstance(error, EngineDied)
        reason = one_line(error.__cause__ if died else error, 1000)
        with contextlib.suppress(OSError):  # the parent may be gone, and with it its end of the pipe
            report.failed(reason, died)
        with contextlib.suppress(OSError):
            folder.set_status("failed", report.stage, reason)
        with contextlib.suppress(OSError):  # the log is on the same full disk
            traceback.print_exc()
        return 1
    return 0


def end(code: int) -> NoReturn:
    """Threads of torch and vLLM can hang in their exit handlers; everything is on the disk already."""
    sys.stdout.flush()
    # Nobody may be left to end what this process has started. Its parent's death is told when the thread that started
    # it is gone, a little before the parent is: too early to look for that.
    if code == BY_SIGNAL or is_orphan():
        end_own_group()
    os._exit(code)


if __name__ == "__main__":
    with secrets.masked_output():
        end(main(sys.argv[1]))
