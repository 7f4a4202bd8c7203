"""One fault after another: sweep, fault, resume, and the result against that of a sweep that nothing befell."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from .. import mlflow_server
from .faults import Fault
from .proxy import Proxy
from .small_sweep import JUDGE_CONCURRENCY, SmallSweep, kept

CLOCK = Path(__file__).with_name("clock.c")


@dataclass(frozen=True)
class Outcome:
    """What the first attempt came to, as far as a table tells."""

    fault: str
    state: str
    said: str
    code: int
    kept: dict[str, int]
    judge_calls: int  # over both attempts
    seconds: float


def clean(root: Path) -> tuple[dict[tuple, Any], int]:
    """(content, calls of the judge) of a sweep that nothing befalls."""
    sweep = SmallSweep(root)
    try:
        sweep.begin()
        assert sweep.end() == 0, sweep.said()
        return sweep.content(), len(sweep.server.bodies)
    finally:
        sweep.close()


def befall(fault: Fault, root: Path, expected: dict[tuple, Any], calls: int) -> Outcome:
    """AssertionError unless the fault is said as it should be and the resume gives what the clean sweep gave."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(_disk(root)) if fault.disk else None
        proxy = stack.enter_context(_mlflow(root)) if fault.server else None
        more = [o.format(root=root) for o in fault.more]
        environment = _clock(root) if fault.clock else {}
        if proxy:
            more += ["tracking=mlflow_server", f"tracking.uri={proxy.url}"]
            environment |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        sweep = SmallSweep(root, mode=fault.mode, folder=disk and disk / "sweep", more=more)
        sweep.proxy = proxy
        try:
            sweep.begin(**environment)
            fault.inject(sweep)
            code = sweep.end(fault.within_s)
            assert code == fault.code, (code, sweep.said())
            sweep.until_gone()
            outcome = _outcome(fault, sweep, code, began)
            fault.mend(sweep)
            resumed = sweep.resume()
            assert resumed == 0, sweep.said()
            fault.check(sweep)
            assert not (wrong := differences(sweep.content(), expected)), wrong
            assert not sweep.left_behind(), sweep.left_behind()
            # Nothing is judged twice but what was under way when it was cut off.
            if not fault.name.startswith("judge "):
                assert calls <= len(sweep.server.bodies) <= calls + 2 * JUDGE_CONCURRENCY, len(sweep.server.bodies)
            return outcome
        finally:
            sweep.close()


def _outcome(fault: Fault, sweep: SmallSweep, code: int, began: float) -> Outcome:
    first, second = sweep.runs[0], sweep.runs[1]
    status = first.status()
    assert status.get("state") == fault.state, (status, sweep.said())
    said = status.get("error") or status.get("tracking") or ""
    assert re.search(fault.reason, said), (said, sweep.said())
    assert second.status().get("state") in fault.other, (second.status(), sweep.said())
    return Outcome(
        fault.name,
        fault.state or "unknown",
        said,
        code,
        kept(first),
        len(sweep.server.bodies),
        time.monotonic() - began,
    )


def differences(found: dict[tuple, Any], expected: dict[tuple, Any]) -> list[str]:
    """What is missing, too much or another thing, a line each."""
    lost = [f"lost: {key}" for key in expected.keys() - found.keys()]
    new = [f"new: {key}" for key in found.keys() - expected.keys()]
    other = [
        f"{k}: {found[k]} instead of {expected[k]}" for k in found.keys() & expected.keys() if found[k] != expected[k]
    ]
    return sorted(lost + new + other)


@contextlib.contextmanager
def _disk(root: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    where = Path(tempfile.mkdtemp(prefix="disk", dir=root))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def _clock(root: Path) -> dict[str, str]:
    """Variables under which the file root/clock says by how many seconds the time of day is off."""
    library = root / "clock.so"
    subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "-o", str(library), str(CLOCK), "-ldl"], check=True)
    (root / "clock").write_text("0")
    return {"LD_PRELOAD": str(library), "CLOCK_OFF_BY": str(root / "clock")}


@contextlib.contextmanager
def _mlflow(root: Path) -> Iterator[Proxy]:
    """A proxy in front of a real server with a sqlite store."""
    port = mlflow_server.free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port)]
    store = ["--backend-store-uri", f"sqlite:///{root}/server.db", "--artifacts-destination", f"{root}/artifacts"]
    # Without its job runner, as in scripts/mlflow.
    alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = mlflow_server.start([*command, *store, "--workers", "1"], port, root / "server.log", **alone)
    proxy = Proxy(f"http://127.0.0.1:{port}")
    try:
        yield proxy
    finally:
        proxy.close()
        mlflow_server.kill(process)


def table(outcomes: list[Outcome]) -> str:
    """Markdown."""
    lines = [
        "| fault | exit | the run's state | what status.json says | rows kept: answers, scores, judgements |",
        "| --- | --- | --- | --- | --- |",
    ]
    for o in outcomes:
        said = re.sub(r"/\S*/", "…/", re.split(r"; (?:last in )?run\.log", o.said)[0]).replace("|", "\\|")
        said = said[:140] + ("…" if len(said) > 140 else "")
        rows = ", ".join(map(str, o.kept.values()))
        lines.append(f"| {o.fault} | {o.code} | {o.state} | {said or '—'} | {rows} |")
    return "\n".join(lines) + "\n"
