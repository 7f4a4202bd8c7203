"""The name of a picture as a table has it: the file below the data's root that it means, or why there is none.

Tables come from elsewhere. A name must not lead out of the data, and one that was typed or unpacked on another system
often differs from the file's in what nobody sees.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Callable, Mapping, Optional, Sequence

from vlm_eval.errors import BadInput, printable

# Letters of other alphabets that look like a Latin one, small: capitals are made small before.
LOOKS_LIKE = str.maketrans("асеорхуіјѕһԁԛԝкмтвнгαορχκνιυ", "aceopxyijshdqwkmtbhraopxkviu")


def find(root: Path, folder: str, name: str, suffixes: Sequence[str] = ()) -> str:
    """The file's path below `root`, with forward slashes; where there is none, what its path would be."""
    _check(folder, name)
    path = f"{folder}/{name}"
    found = next((f for f in (on_disk(root, path + suffix) for suffix in ("", *suffixes)) if f), None)
    if found is None and (alike := _alike(root, path)):
        raise BadInput(f"{root / path}: no such image; {alike}")
    if not _stays(root, found or path):
        raise BadInput(f"{root / path}: leads out of task.data.root by a symbolic link; put the file itself there")
    return found or path


def _check(folder: str, name: str) -> None:
    """What is wrong with a name whatever files there are."""
    way_out = f"name a file below {folder}/, with / between folders"
    if "\0" in name:
        raise BadInput(f"{name}: a NUL character in a file's name; {way_out}")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        raise BadInput(f"{name}: a path of another machine; {way_out}")
    if ".." in re.split(r"[\\/]", name):
        raise BadInput(f"{name}: leads out of task.data.root; {way_out} and no ..")
    if "\\" in name:
        raise BadInput(f"{name}: backslashes between folders; write {name.replace(chr(92), '/')}")
    if re.match(r"(?i)[a-z][a-z0-9+.-]+://|data:[a-z]+/", name):
        raise BadInput(f"{name[:100]}: neither a file's name nor an address that could be fetched; {way_out}")
    if name.startswith("/"):
        raise BadInput(f"{name}: leads out of task.data.root, it begins with /; {way_out}")


def on_disk(root: Path, path: str) -> Optional[str]:
    """The same path as the disk spells it, if it is there: macOS writes й as и and a breve."""
    parts: list[str] = []
    for part in PurePosixPath(path).parts:
        here = root.joinpath(*parts)
        if not os.path.lexists(here / part):
            same = _names_in(here, _composed).get(_composed(part), ())
            if len(same) != 1:
                return None
            [part] = same
        parts.append(part)
    return "/".join(parts) or "."


def _stays(root: Path, path: str) -> bool:
    try:
        return (root / path).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle; a name that no file can have
        return not (root / path).is_symlink()


def _alike(root: Path, path: str) -> Optional[str]:
    """A file that the name may have meant, and what sets the two apart."""
    parts = PurePosixPath(path).parts
    for count, part in enumerate(parts):
        here = root.joinpath(*parts[:count])
        if not os.path.lexists(here / part):
            other = next(iter(_names_in(here, _skeleton).get(_skeleton(part), ())), None)
            return other and f"there is {printable(repr(other))}, {_difference(part, other)}"
    return None


def _difference(named: str, other: str) -> str:
    named, other = _composed(named), _composed(other)
    if named.casefold() == other.casefold():
        return "with other capital letters"
    pairs = [(a, b) for a, b in zip(named.casefold(), other.casefold()) if a != b]
    if len(named.casefold()) != len(other.casefold()) or not all(a.isalpha() and b.isalpha() for a, b in pairs):
        return "with other blanks, dots or marks"
    return "; ".join(
        f"where the table has {a} ({unicodedata.name(a, '?')}) and the file {b} ({unicodedata.name(b, '?')})"
        for a, b in list(dict.fromkeys(pairs))[:3]
    )


def _skeleton(name: str) -> str:
    """Equal for names that look alike."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if c.isalnum())
    return letters.translate(LOOKS_LIKE)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _names_in(folder: Path, like: Callable[[str], str]) -> Mapping[str, Sequence[str]]:
    """What lies in a folder, by what makes names alike; nothing where it cannot be read."""
    try:
        return _listed(folder, like, folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}


@functools.lru_cache(maxsize=8)  # of a table without its pictures every row asks
def _listed(folder: Path, like: Callable[[str], str], version: int) -> Mapping[str, Sequence[str]]:
    found = defaultdict(list)
    for name in sorted(os.listdir(folder)):
        found[like(name)].append(name)
    return dict(found)
