"""What several test modules need: `vlm-eval` in this process, small data sets, small checkpoint folders."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import psutil
from PIL import Image

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
VLM_EVAL = Path(sys.executable).with_name("vlm-eval")
FAULTY = ("--config-dir", str(TESTS / "conf"), "engine=faulty")  # the engine of faulty_engine.py
QUICK = ("judge=none", "metrics=tech", "tracking=none")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class CommandLine:
    """`vlm_eval_cli("-m", "model=demo")`: the command's main() in this process, in the test's own empty folder."""

    def __init__(self, monkeypatch, capfd):
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *arguments: str) -> Ended:
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.hydra_config import HydraConfig

        from vlm_eval import cli

        self.capfd.readouterr()
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        with self.monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", [str(VLM_EVAL), *map(str, arguments)])
            patch.delenv("HYDRA_FULL_ERROR", raising=False)
            try:
                code = cli.main()
            except SystemExit as ended:  # as the console script ends
                code = ended.code or 0
            finally:
                os.environ.pop("HYDRA_FULL_ERROR", None)
                GlobalHydra.instance().clear()
                HydraConfig.instance().cfg = None
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        return Ended(code, *self.capfd.readouterr())


def composed(*overrides: str) -> Any:
    """The config as Hydra composes it and our schemas complete it."""
    from hydra import compose, initialize_config_dir

    from vlm_eval import config, paths, resolvers

    resolvers.register_resolvers()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        return config.validate(compose("config", list(overrides)))


def left_in_shared_memory() -> set[str]:
    """What no living process holds, nor does a while later: of what is being made or taken away just then, none does.
    Tests beside this one have theirs there, and leave some: their servers, browsers, Ray, and vLLM its workers' where
    an engine was tensor parallel."""
    if found := _held_by_none():
        time.sleep(2)
        found &= _held_by_none()
    return found


def _held_by_none() -> set[str]:
    of_others = ("PostgreSQL", ".org.chromium", "plasma", "vllm_dist")
    held = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            held |= {Path(mapped.path).name for mapped in process.memory_maps() if mapped.path.startswith("/dev/shm/")}
    return {name for name in os.listdir("/dev/shm") if not name.startswith(of_others)} - held


def python(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """A fresh interpreter, to see what is imported and what is not."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_data(root: Path, count: int = 3) -> Path:
    """A VQA data set of so many one-colour screenshots, one question each: items a, b, c, ..."""
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        name = chr(ord("a") + number)
        Image.new("RGB", (64, 48), (number, 0, 0)).save(root / "images" / f"{name}.png")
        rows.append({"item_id": name, "image": f"{name}.png", "question": f"Что на экране {name}?", "reference": "Чат"})
    write_table(root / "items.csv", rows)
    return root


def make_checkpoint(folder: Path, **config: Any) -> Path:
    """A checkpoint folder as far as the check before a run looks at one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def hear_ctrl_c() -> None:
    """For a process that a test starts: a shell that started the tests in the background has SIGINT ignored, and that
    is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def left_behind(folder: Path) -> list[psutil.Process]:
    """Processes that still stand below a folder or name it: sweeps, runs, and what their engines started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and any(str(folder) in word for word in (process.cwd(), *process.cmdline())):
                found.append(process)
    return found


def until(reached, what, seconds: float = 120) -> None:
    """`what`: in words, or a function that then says it. Long: a busy machine takes three times as long."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not after {seconds:g} s: {what() if callable(what) else what}"
        time.sleep(0.2)
