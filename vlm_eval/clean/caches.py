"""The caches of answers, replies and pictures: which there are, who may use them, and their removal."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import Any, Iterator

from vlm_eval.clean.found import HIDDEN, RUNNING, Found, Runs, extent, half_removed, take_away


def find_caches(asked: argparse.Namespace) -> Iterator[Found]:
    """Answers and replies that were paid for, and pictures that were fetched."""
    folder = cache_folder(os.environ, Path.cwd())
    yield from half_removed("caches", folder)
    for path in sorted([*folder.glob("*.sqlite"), *folder.glob("images")]):
        if path.is_symlink() or path.name.startswith(HIDDEN):
            continue
        state = RUNNING if users_of(folder) else "ok"
        yield Found("caches", path, *extent(*sqlite_files(path), path), state, lambda path=path: remove_cache(path))


def sqlite_files(path: Path) -> list[Path]:
    """What SQLite keeps beside a database that is open, or was when its process died."""
    return [Path(f"{path}-shm"), Path(f"{path}-wal")]


def cache_folder(environment: Any, cwd: Path) -> Path:
    """Where a process of that environment keeps them."""
    named = environment.get("VLM_EVAL_CACHE", "~/.cache/vlm-eval")
    home = environment.get("HOME") or str(Path.home())
    return (cwd / (home + named[1:] if named == "~" or named.startswith("~/") else named)).resolve()


def users_of(folder: Path) -> list[int]:
    """Processes of this machine that may use the caches in it: vlm-eval's, of that setting or of one we may not see."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # gone, or hidden even from a list
            words = [Path(word).name for word in process.cmdline()[:3]]
            if not any(w.startswith(("vlm-eval", "vlm_eval.")) for w in words) or "vlm_eval.clean" in words:
                continue
            try:
                uses = cache_folder(process.environ(), Path(process.cwd())) == folder
            except psutil.AccessDenied:
                uses = True
            found += [process.pid] if uses else []
    return found


def remove_cache(path: Path) -> None:
    if users := users_of(path.parent):
        raise Runs(f"process {users[0]} may use it")
    # SQLite's own go first: without them it is an older cache, they without it are nothing. SQLite may be faster: it
    # takes them away itself when the last that has the cache open closes it.
    for file in sqlite_files(path):
        with contextlib.suppress(FileNotFoundError):
            take_away(file)
    take_away(path)
