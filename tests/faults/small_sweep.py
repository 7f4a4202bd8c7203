"""Two runs of eight answers, each judged over HTTP, with every stage slow enough to be hit; and what must be the same
whatever befell it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import psutil

from vlm_eval.store import RunFolder, read_json

from ..helpers import FAULTY, REPO, VLM_EVAL, hear_ctrl_c, left_behind, make_data, until
from ..judges.server import Server, fair

ITEMS, REPEATS = 4, 2
JUDGE_CONCURRENCY = 2


class SmallSweep:
    """One sweep in a folder of its own; `begin` starts it, `end` waits for it, `resume` does both with sweep.resume."""

    def __init__(self, root: Path, *, mode: str = "fine", folder: Optional[Path] = None, more: Sequence[str] = ()):
        self.root, self.cwd, self.server = root, root / "cwd", Server()
        self.folder = folder or self.cwd / "multirun" / "sweep"
        self.data = make_data(root / "data", ITEMS)
        self.cwd.mkdir()
        self.server.script = lambda number, body: (time.sleep(0.1), (200, fair(body)))[1]
        self.environment = {
            "PYTHONPATH": str(REPO),
            "VLM_EVAL_CACHE": str(root / "cache"),
            "ODD_METRIC_LOG": str(root / "metric.log"),
            "FAULTY_ENGINE_LOG": str(root / "engine.log"),
        }
        self.command = [
            *(
                "-m",
                *FAULTY,
                f"engine.mode={mode},ok",
                "engine.after=3",
                "engine.delay_s=0.1",
                "engine.latency_items=1",
            ),
            *("task=vqa", f"task.data.root={self.data}", f"task.repeats={REPEATS}"),
            *("judge=server", "judge.model=openai/x", f"judge.api_base={self.server.url}", "judge.api_key_env=null"),
            *("judge.usd_per_million_in=1", "judge.usd_per_million_out=1"),
            *(f"judge.concurrency={JUDGE_CONCURRENCY}", "judge.retries=1", "judge.timeout_s=5"),
            *("metrics=[tech,odd]", "metrics.odd.sleep_s=1", "tracking=none", *more),
        ]
        self.process: Optional[subprocess.Popen] = None
        self.proxy: Any = None  # in front of MLflow's server, where there is one
        self.clock = root / "clock"  # by how many seconds the time of day is off, where that can be set

    def close(self) -> None:
        for process in self.left_behind():
            process.kill()
        self.server.http.shutdown()
        self.server.http.server_close()

    # ------------------------------------------------------------------------------------------------- running it

    def begin(self, *more: str, **environment: str) -> None:
        known = "hydra.sweep.dir" if not (self.folder / "sweep.json").is_file() else "sweep.resume"
        with open(self.root / "said", "a") as said:
            self.process = subprocess.Popen(
                [VLM_EVAL, *self.command, f"{known}={self.folder}", *more],
                cwd=self.cwd,
                env={**os.environ, **self.environment, **environment},
                stdout=said,
                stderr=said,
                preexec_fn=hear_ctrl_c,
            )

    def end(self, within_s: float = 120) -> int:
        return self.process.wait(within_s)

    def resume(self, *more: str, **environment: str) -> int:
        self.begin(*more, FAULTY_ENGINE_MENDED="1", **environment)
        return self.end()

    def until(self, condition: Callable[[], Any], within_s: float = 60) -> Any:
        """What `condition` gives once it is true; a sweep that ends before that is an error."""
        over = time.monotonic() + within_s
        while time.monotonic() < over:
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError, StopIteration, psutil.Error):
                if found := condition():
                    return found
            if self.process.poll() is not None:
                raise AssertionError(f"the sweep ended before it came so far: {self.said()[-2000:]}")
            time.sleep(0.01)
        raise AssertionError(f"waited in vain: {self.said()[-2000:]}")

    def until_rows(self, kind: str, count: int) -> None:
        """Until the victim has so many rows, torn ones not counted."""
        self.until(lambda: len(self.victim.read(kind)) >= count)

    def until_gone(self, within_s: float = 10) -> None:
        """Until no process of the sweep is there any more."""
        until(lambda: not self.left_behind(), lambda: [p.cmdline() for p in self.left_behind()], within_s)

    def said(self) -> str:
        return (self.root / "said").read_text()

    # ---------------------------------------------------------------------------------------------- looking at it

    @property
    def runs(self) -> list[RunFolder]:
        points = read_json(self.folder / "sweep.json").get("points", [])  # none: killed before it was written
        return [RunFolder(self.folder / point["folder"]) for point in points]

    @property
    def victim(self) -> RunFolder:
        """The first run, which the faults are for."""
        return self.runs[0]

    def child(self) -> psutil.Process:
        """The victim's process."""
        return self.until(
            lambda: next(
                p
                for p in psutil.Process(self.process.pid).children(recursive=True)
                if p.cmdline()[1:3] == ["-m", "vlm_eval.run"] and p.cmdline()[3] == str(self.victim.path)
            )
        )

    def left_behind(self) -> list[psutil.Process]:
        """Processes that stand below the sweep's folder or have it on their command line."""
        return [p for p in left_behind(self.root) if "server.db" not in " ".join(p.cmdline())]  # MLflow's, not ours

    def content(self) -> dict[tuple, Any]:
        """All that must not depend on how often the sweep was interrupted: rows by run, kind and key, and summaries
        without what was measured with a clock. A row that is there twice is an AssertionError."""
        found: dict[tuple, Any] = {}
        for number, run in enumerate(self.runs):
            rows = [
                *((("answer", a.item_id, a.repeat), (a.text, a.seed)) for a in run.read("answers")),
                *((("latency", x.item_id, x.repeat), x.output_tokens) for x in run.read("latency")),
                *((("score", s.item_id, s.repeat), s.values.get("odd")) for s in run.read("scores")),
                *(
                    (("judgement", j.item_id, j.repeat, j.order), (j.status, j.candidate_score, j.rationale))
                    for j in run.read("judgements")
                ),
                *((("summary", name), None if _by_clock(name) else value) for name, value in run.summary().items()),
                (("state",), run.status().get("state")),
            ]
            for key, value in rows:
                assert (number, *key) not in found, f"twice: {(number, *key)}"
                found[(number, *key)] = value
        return found


def _by_clock(name: str) -> bool:
    """A number that no two sweeps have alike."""
    words = ("_s_", "per_s", "gib", "cost", "batches")
    return any(word in name for word in words) or name.endswith("_s")


def kept(run: RunFolder) -> dict[str, int]:
    """How many rows of each kind can be read."""
    return {kind: len(run.read(kind)) for kind in ("answers", "scores", "judgements")}
