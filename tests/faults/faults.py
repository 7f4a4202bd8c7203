"""The faults: what each does to a small sweep, what the sweep must say of it, and what is mended before the resume."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Optional, Sequence

from PIL import Image

from vlm_eval.store import RunFolder

from ..judges.server import fair
from .small_sweep import ITEMS, REPEATS, SmallSweep

Step = Callable[[SmallSweep], object]


# Of the second run: nothing, or it waited, prepared, when the fault came.
NOT_HAD_ITS_TURN = (None, "running", "interrupted")


def nothing(_: SmallSweep) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """`inject` does it while the sweep runs; then the sweep ends with `code`, and its first run has this state, and a
    reason that matches. `mend` comes before the resume, `check` after it."""

    name: str
    inject: Step
    state: Optional[str]  # None: the run's folder says nothing
    reason: str = ""
    code: int = 1
    other: tuple[Optional[str], ...] = ("ok",)  # the second run's state, one of these
    mode: str = "fine"  # of the first run's engine
    mend: Step = nothing
    check: Step = nothing
    more: Sequence[str] = ()  # overrides
    disk: bool = False  # on a small file system of its own
    server: bool = False  # tracked by an MLflow server behind sweep.proxy
    within_s: float = 120  # the first attempt ends
    clock: bool = False  # with a time of day that can be set


# ------------------------------------------------------------------------------------------------------ when, and how


def generating(sweep: SmallSweep) -> None:
    sweep.until_rows("answers", 3)


def scoring(sweep: SmallSweep) -> None:
    sweep.until(lambda: "scored" in (sweep.root / "metric.log").read_text())


def judging(sweep: SmallSweep) -> None:
    sweep.until_rows("judgements", 2)


def to_run(number: int, when: Step) -> Step:
    def inject(sweep: SmallSweep) -> None:
        when(sweep)
        sweep.child().send_signal(number)

    return inject


def to_sweep(*numbers: int, when: Step = generating) -> Step:
    def inject(sweep: SmallSweep) -> None:
        when(sweep)
        for number in numbers:
            sweep.process.send_signal(number)
            time.sleep(0.2)

    return inject


def deaf(sweep: SmallSweep) -> None:
    """Its engine has begun to ignore SIGTERM."""
    generating(sweep)
    time.sleep(1)


def killed_both(sweep: SmallSweep) -> None:
    """As when the power fails: nobody has a last word."""
    generating(sweep)
    child = sweep.child()
    child.suspend()  # else it may hear of the sweep's end first, and say so
    sweep.process.kill()
    child.kill()


def limited(which: int, limit: int) -> Step:
    """prlimit(2) of the run's process, from outside."""

    def inject(sweep: SmallSweep) -> None:
        generating(sweep)
        resource.prlimit(sweep.child().pid, which, (limit, limit))

    return inject


def killed_then(spoil: Callable[[RunFolder], object]) -> Step:
    def inject(sweep: SmallSweep) -> None:
        to_run(signal.SIGKILL, judging)(sweep)
        sweep.end()
        spoil(sweep.victim)

    return inject


def torn(kind: str) -> Callable[[RunFolder], None]:
    def spoil(run: RunFolder) -> None:
        file = run.path / f"{kind}.jsonl"
        file.write_bytes(file.read_bytes()[:-7])

    return spoil


def zeros(run: RunFolder) -> None:
    """What a file system may leave of a page that was not written before the power failed."""
    file = run.path / "answers.jsonl"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    file.write_bytes(bytes(content))


def not_json(name: str) -> Callable[[RunFolder], None]:
    def spoil(run: RunFolder) -> None:
        file = run.path / name
        file.write_text(file.read_text()[:-20])

    return spoil


def filled_disk(when: Step) -> Step:
    def inject(sweep: SmallSweep) -> None:
        when(sweep)
        with open(sweep.folder.parent / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass

    return inject


def freed(sweep: SmallSweep) -> None:
    (sweep.folder.parent / "filler").unlink()


def read_only(sweep: SmallSweep) -> None:
    """A sweep that was killed, whose disk then can be read alone: a resume says so, and all rows can be read."""
    to_sweep(signal.SIGTERM)(sweep)
    assert sweep.end() == 143
    _remount(sweep, "ro")
    before = {p: p.read_bytes() for p in sweep.folder.rglob("*") if p.is_file()}
    sweep.begin()
    assert sweep.end() == 2 and "cannot be written: Read-only file system" in sweep.said()
    assert {p: p.read_bytes() for p in sweep.folder.rglob("*") if p.is_file()} == before


def _remount(sweep: SmallSweep, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(sweep.folder.parent)], check=True)


def removed(sweep: SmallSweep) -> None:
    generating(sweep)
    shutil.rmtree(sweep.victim.path)


def judge_says(status: Optional[int], said: object, calls: Optional[int] = None) -> Step:
    """The judge's server, so often or always."""

    def inject(sweep: SmallSweep) -> None:
        usual = sweep.server.script
        sweep.server.script = lambda n, body: (status, said) if calls is None or n <= calls else usual(n, body)

    return inject


def judge_hangs(sweep: SmallSweep) -> None:
    sweep.server.script = lambda number, body: (time.sleep(3), (200, fair(body)))[1]


def judge_recovers(sweep: SmallSweep) -> None:
    sweep.server.script = lambda number, body: (200, fair(body))


def clock(seconds: int) -> Step:
    """The system's time of day jumps while answers are made; the monotonic clock goes on, as it does then."""

    def inject(sweep: SmallSweep) -> None:
        generating(sweep)
        sweep.clock.write_text(str(seconds))

    return inject


def picture_changed(sweep: SmallSweep) -> None:
    to_run(signal.SIGKILL, generating)(sweep)
    sweep.end()
    Image.new("RGB", (64, 48), "white").save(sweep.data / "images" / "a.png")
    (sweep.root / "engine.log").write_text("")


def asked_again(*items: str) -> Step:
    def check(sweep: SmallSweep) -> None:
        log = (sweep.root / "engine.log").read_text().splitlines()
        asked = [line.split()[2] for line in log if line.startswith("answer fine")]
        assert set(items) <= set(asked), asked

    return check


def picture_gone(sweep: SmallSweep) -> None:
    to_run(signal.SIGKILL, generating)(sweep)
    sweep.end()
    picture = sweep.data / "images" / "d.png"
    content = picture.read_bytes()
    picture.unlink()
    sweep.begin()
    assert sweep.end() == 2 and "d.png: no such image" in sweep.said()
    picture.write_bytes(content)


def store_locked(sweep: SmallSweep) -> None:
    generating(sweep)
    store = sqlite3.connect(sweep.root / "mlflow.db", timeout=30, check_same_thread=False)
    store.execute("BEGIN EXCLUSIVE")
    sweep.end(180)
    store.close()


def server(mode: str, when: Step = nothing) -> Step:
    """The connections to MLflow's server, from that moment on."""

    def inject(sweep: SmallSweep) -> None:
        when(sweep)
        sweep.proxy.mode = mode

    return inject


def server_cut_off_while_told(sweep: SmallSweep) -> None:
    """In the middle of what a run has to tell it."""
    judging(sweep)
    before = sweep.proxy.requests
    sweep.until(lambda: sweep.proxy.requests > before + 4)
    sweep.proxy.mode = "cut"


def imported(sweep: SmallSweep) -> None:
    """The server is back: scripts/mlflow-import brings all in, and a second time nothing more."""
    sweep.proxy.mode = "pass"
    for _ in range(2):
        said = subprocess.run(
            [sys.executable, "-m", "vlm_eval.import_sweep", str(sweep.folder)],
            cwd=sweep.cwd,
            env={**os.environ, **sweep.environment},
            capture_output=True,
            text=True,
        )
        assert said.returncode == 0, said.stderr
        once_in_mlflow(sweep)


def once_in_mlflow(sweep: SmallSweep) -> None:
    """One parent run, one child a run, each with all its answers' rows and its own files."""
    from mlflow import MlflowClient

    client = MlflowClient(sweep.proxy.url)
    [experiment] = [e for e in client.search_experiments() if e.name == "vlm-eval"]
    runs = client.search_runs([experiment.experiment_id])
    kinds = Counter((r.data.tags["vlm_eval.kind"], r.info.status) for r in runs)
    assert kinds == {("sweep", "FINISHED"): 1, ("run", "FINISHED"): 2}, kinds
    for run in (r for r in runs if r.data.tags["vlm_eval.kind"] == "run"):
        assert run.data.metrics["judge/match_ratio_n"] > 0
        assert "answers.jsonl" in {a.path for a in client.list_artifacts(run.info.run_id)}
        traces = client.search_traces(
            locations=[experiment.experiment_id],
            filter_string=f"attributes.run_id = '{run.info.run_id}'",
            max_results=500,
        )
        assert len(traces) == ITEMS * REPEATS, len(traces)


def second_parent(sweep: SmallSweep) -> None:
    """The same command over the same folder, while the first is at it."""
    generating(sweep)
    first = sweep.process
    sweep.begin()
    assert sweep.end() == 2 and "another process works on this sweep" in sweep.said()
    sweep.process = first


SQLITE = ("tracking=mlflow_local", "tracking.uri=sqlite:///{root}/mlflow.db", "tracking.artifacts={root}/artifacts")
KILLED, BY_SIGNAL = "killed by SIGKILL", "stopped by a signal"


def _full_disk(name: str, when: Step) -> Fault:
    others = (*NOT_HAD_ITS_TURN, "failed")
    return Fault(name, filled_disk(when), "failed", "No space left", other=others, mend=freed, disk=True)


def _judge(name: str, inject: Step, more: Sequence[str] = ()) -> Fault:
    """In trouble for both runs, and mended before the resume."""
    return Fault(name, inject, "failed", "judge", other=("failed",), mend=judge_recovers, more=more)


def _mlflow(name: str, inject: Step, said: str = "not tracked", within_s: float = 120) -> Fault:
    """Costs the runs nothing; scripts/mlflow-import brings them in, and then a resume adds nothing."""
    about = {"mend": imported, "check": once_in_mlflow, "server": True, "within_s": within_s}
    return Fault(name, inject, "ok", said, 0, **about)


FAULTS = [
    # a run's process
    Fault("SIGKILL while answers are made", to_run(signal.SIGKILL, generating), "failed", KILLED),
    Fault("SIGKILL while metrics are computed", to_run(signal.SIGKILL, scoring), "failed", KILLED),
    Fault("SIGKILL while the judge is asked", to_run(signal.SIGKILL, judging), "failed", KILLED),
    Fault("SIGTERM to the run alone", to_run(signal.SIGTERM, generating), "interrupted", BY_SIGNAL),
    Fault("segmentation fault in the engine", nothing, "failed", "killed by SIGSEGV", mode="segfault"),
    Fault("abort() in the engine", nothing, "failed", "killed by SIGABRT", mode="abort"),
    Fault("engine raises", nothing, "failed", "ValueError: the engine broke over two lines", mode="raise"),
    Fault("engine cannot be loaded", nothing, "failed", "RuntimeError: no such weights", mode="start"),
    Fault("out of memory (RLIMIT_AS)", nothing, "failed", "MemoryError", mode="memory"),
    Fault("endless recursion", nothing, "failed", "RecursionError", mode="recursion"),
    Fault("sys.exit in a plugin", nothing, "failed", "SystemExit: 0", mode="exit"),
    Fault("os._exit(0) in a plugin", nothing, "failed", "exited with 0", mode="os_exit"),
    Fault("forked child left behind", nothing, "ok", code=0, mode="fork"),
    Fault("thread that does not end", nothing, "failed", "ValueError", mode="thread"),
    Fault("hang", nothing, "failed", "killed after run.timeout_s=15", mode="hang", more=["run.timeout_s=15"]),
    Fault(
        *("SIGSTOP to the run", to_run(signal.SIGSTOP, generating), "failed", "killed after run.timeout_s=15"),
        more=["run.timeout_s=15"],
    ),
    Fault("no more file descriptors", limited(resource.RLIMIT_NOFILE, 3), "failed", "Too many open files"),
    # the sweep's process
    Fault("Ctrl-C", to_sweep(signal.SIGINT), "interrupted", BY_SIGNAL, 130, other=NOT_HAD_ITS_TURN),
    Fault("SIGTERM", to_sweep(signal.SIGTERM), "interrupted", BY_SIGNAL, 143, other=NOT_HAD_ITS_TURN),
    Fault(
        "SIGHUP: the terminal is closed", to_sweep(signal.SIGHUP), "interrupted", BY_SIGNAL, 129, other=NOT_HAD_ITS_TURN
    ),
    Fault(
        *(
            "SIGTERM twice, to a run that is deaf to it",
            to_sweep(signal.SIGTERM, signal.SIGTERM, when=deaf),
            "interrupted",
            BY_SIGNAL,
            143,
        ),
        other=NOT_HAD_ITS_TURN,
        mode="deaf",
    ),
    Fault(
        "SIGTERM while the judge is asked",
        to_sweep(signal.SIGTERM, when=judging),
        "interrupted",
        BY_SIGNAL,
        143,
        NOT_HAD_ITS_TURN,
    ),
    Fault("SIGKILL to the sweep", to_sweep(signal.SIGKILL), "interrupted", BY_SIGNAL, -9, other=NOT_HAD_ITS_TURN),
    Fault("SIGKILL to sweep and run at once", killed_both, "running", "", -9, other=NOT_HAD_ITS_TURN),
    Fault("a second sweep in the same folder", second_parent, "ok", code=0),
    # the disk
    _full_disk("full disk while answers are made", generating),
    _full_disk("full disk while the judge is asked", judging),
    Fault("file size limit (ulimit -f)", limited(resource.RLIMIT_FSIZE, 1024), "failed", "File too large"),
    Fault(
        *("read-only file system", read_only, "interrupted", BY_SIGNAL, 2),
        other=NOT_HAD_ITS_TURN,
        mend=lambda sweep: _remount(sweep, "rw"),
        disk=True,
    ),
    Fault("run's folder removed", removed, "failed", "No such file or directory"),
    Fault("answers.jsonl: last line torn", killed_then(torn("answers")), "failed", KILLED),
    Fault("judgements.jsonl: last line torn", killed_then(torn("judgements")), "failed", KILLED),
    Fault("answers.jsonl: 40 zero bytes in the middle", killed_then(zeros), "failed", KILLED),
    Fault("status.json cut off", killed_then(not_json("status.json")), None),
    Fault("provenance.json cut off", killed_then(not_json("provenance.json")), "failed", KILLED),
    # the judge
    _judge("judge answers 500 throughout", judge_says(500, "fire")),
    Fault("judge answers 429, then recovers", judge_says(429, "slow down", 1), "ok", code=0),
    _judge("judge cuts connections", judge_says(None, b"HTTP/1.1 200 OK\r\n")),
    _judge("judge writes prose instead of JSON", judge_says(200, "Хорошо.")),
    _judge("judge does not answer", judge_hangs, more=["judge.timeout_s=1"]),
    # data and clock
    Fault("screenshot changed before the resume", picture_changed, "failed", KILLED, check=asked_again("a")),
    Fault("screenshot gone before the resume", picture_gone, "failed", KILLED, 2),
    Fault("clock jumps a day ahead", clock(86400), "ok", code=0, clock=True),
    Fault("clock jumps a day back", clock(-86400), "ok", code=0, clock=True),
    # MLflow
    _mlflow("MLflow's server refuses connections", server("refuse")),
    _mlflow("MLflow's server answers 500", server("error", generating)),
    _mlflow("MLflow's server dies while it is told", server_cut_off_while_told),
    _mlflow("MLflow's server does not answer", server("silent", generating)),
    _mlflow("MLflow's server is slow", server("slow", generating), said="", within_s=300),
    Fault("MLflow's sqlite store locked by another", store_locked, "ok", code=0, more=SQLITE),
]
