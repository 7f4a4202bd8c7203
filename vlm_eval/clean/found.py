"""What may be removed, how much it takes, and how it is taken away."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

PROGRAM = "scripts/clean"
HIDDEN = ".removing-"  # what is being removed, and what an interrupted removal left
# A run that has not ended and wrote something since is taken for running, lock or no lock: its process may be starting,
# or be on another machine whose locks are not seen here.
QUIET_S = 3600
RUNNING, HALF_REMOVED, DELETED, ORPHAN = "running", "half removed", "deleted", "orphan"
LEFTOVERS = (HALF_REMOVED, DELETED, ORPHAN)  # not counted by --keep: nobody looks at them


class Runs(Exception):
    """It began to run after it was listed, or is in use."""


class Extent(NamedTuple):
    """What a file or folder takes: bytes, and when anything in it was last written (seconds since the epoch)."""

    size: int
    changed: float


@dataclass(frozen=True)
class Found:
    """Something that may be removed. `remove` raises Runs if it runs by now, another Exception where it fails."""

    kind: str
    path: Path
    size: int  # bytes
    changed: float  # seconds since the epoch
    state: str
    remove: Callable[[], None]


def extent(*paths: Path) -> Extent:
    """Of all that is in them; links count as themselves, and what goes away meanwhile as nothing."""
    size, changed = 0, 0.0
    for path in paths:
        below = (os.path.join(top, name) for top, folders, files in os.walk(path) for name in [*folders, *files])
        for entry in [path, *below]:
            with contextlib.suppress(FileNotFoundError):
                about = os.lstat(entry)
                size += 0 if stat.S_ISDIR(about.st_mode) else about.st_size
                changed = max(changed, about.st_mtime)
    return Extent(size, changed)


def take_away(path: Path) -> None:
    """Remove a folder or file, renamed first, so that what is half removed is not taken for whole. Links in it are
    removed, what they lead to stays."""
    if path.is_symlink():
        raise OSError("it is a link; remove it by hand")
    hidden = path if path.name.startswith(HIDDEN) else path.with_name(HIDDEN + path.name)
    if hidden != path:
        if hidden.exists():  # the rest of an earlier one of that name
            take_away(hidden)
        path.rename(hidden)
    if hidden.is_dir():
        shutil.rmtree(hidden)
    else:
        hidden.unlink()


def half_removed(kind: str, folder: Path) -> Iterator[Found]:
    for path in sorted(folder.glob(f"{HIDDEN}*")):
        yield Found(kind, path, *extent(path), HALF_REMOVED, lambda path=path: take_away(path))
