"""Which sweep is to go on, and what to type for it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from vlm_eval import config
from vlm_eval.errors import BadInput
from vlm_eval.store import read_json


def sweep_to_resume(folder: str) -> dict[str, Any]:
    """Its sweep.json; BadInput where there is none."""
    if sweep := read_json(Path(folder) / "sweep.json"):
        return sweep
    what = "no sweep.json there; give the folder of an earlier sweep"
    if is_run_of_sweep(Path(folder)):
        what = "a run of a sweep; give the folder above it"
    elif (Path(folder) / "status.json").is_file():
        what = "a single run; only a sweep is resumed, and a single point with -m is a sweep, too"
    raise BadInput(f"sweep.resume={folder}: {what}")


def is_run_of_sweep(folder: Path) -> bool:
    return (folder / "status.json").is_file() and (folder.resolve().parent / "sweep.json").is_file()


def command_again(folder: str | Path, sweep: dict[str, Any]) -> str:
    """What to type to go on with a sweep: its own command and sweep.resume."""
    words = [w for w in shlex.split(sweep["command"]) if w.lstrip("+").partition("=")[0] != "sweep.resume"]
    path = str(folder)
    plain = "/" in path and re.fullmatch(r"[\w./-]+", path, re.ASCII)
    return shlex.join([*words, f"sweep.resume={path if plain else config.quoted(path)}"])
