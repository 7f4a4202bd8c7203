"""List old sweeps, caches and MLflow artifacts by age and size, and remove them; never what is running.

    scripts/clean                                                     lists, removes nothing
    scripts/clean sweeps mlflow --older-than 30d --larger-than 1GB --keep 5 --remove

Sweeps are those in multirun/, MLflow's store is mlruns/mlflow.db, both where one stands; caches are in $VLM_EVAL_CACHE,
else ~/.cache/vlm-eval. Exit codes: 0 done; 1 something could not be removed, or runs by now; 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

from vlm_eval.clean.caches import find_caches
from vlm_eval.clean.found import HALF_REMOVED, LEFTOVERS, PROGRAM, RUNNING, Found, Runs
from vlm_eval.clean.mlflow_store import STORE, find_mlflow
from vlm_eval.clean.sweeps import find_sweeps
from vlm_eval.errors import BadInput, one_line, printable
from vlm_eval.text_table import text_table

FIND = {"sweeps": find_sweeps, "caches": find_caches, "mlflow": find_mlflow}
KINDS = tuple(FIND)
SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def main() -> int:
    parser = argparse.ArgumentParser(PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; default: all")
    parser.add_argument("--older-than", metavar="30d", help="last written so long ago: h, d, w")
    parser.add_argument("--larger-than", metavar="1GB", help="KB, MB, GB, TB, KiB, MiB, GiB, TiB")
    parser.add_argument("--keep", metavar="N", help="never the N newest of a kind; --keep 0: all may go")
    parser.add_argument("--uri", help=f"MLflow's store; default: {STORE}")
    parser.add_argument("--remove", action="store_true", help="remove what is listed, after asking")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    asked = parser.parse_args()
    try:
        return clean(asked)
    except BadInput as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped; what is half removed is listed as such next time", file=sys.stderr)
        return 130


def clean(asked: argparse.Namespace) -> int:
    """List, ask, remove."""
    if unknown := [kind for kind in asked.kinds if kind not in KINDS]:
        raise BadInput(f"{unknown[0]}: no such kind; there are {', '.join(KINDS)}")
    older_s = measure("--older-than", asked.older_than, SECONDS)
    larger = measure("--larger-than", asked.larger_than, BYTES)
    if asked.keep is not None and not asked.keep.isdecimal():
        raise BadInput(f"--keep {asked.keep}: give a number")
    if asked.remove and (older_s, larger, asked.keep) == (None, None, None):
        raise BadInput("--remove would take all: say what with --older-than, --larger-than or --keep N (0: all)")
    if asked.remove and not asked.yes and not sys.stdin.isatty():
        raise BadInput("--remove asks first and there is no terminal; add --yes")
    kinds = asked.kinds or KINDS
    found = [f for kind in KINDS if kind in kinds for f in FIND[kind](asked)]
    chosen = choose(found, older_s or 0, larger or 0, int(asked.keep or 0))
    goes = [f for f in chosen if f.state != RUNNING]
    print(listing(chosen, goes))
    if not asked.remove or not goes:
        return 0
    if not asked.yes and input(f"Remove {len(goes)}, {size_text(sum(f.size for f in goes))}? [y/N] ").lower() != "y":
        print("nothing removed")
        return 0
    removed = [f for f in goes if removes(f)]
    print(f"{len(removed)} of {len(goes)} removed, {size_text(sum(f.size for f in removed))}")
    return 0 if len(removed) == len(goes) else 1


def measure(option: str, text: Optional[str], units: dict[str, float]) -> Optional[float]:
    """`30d` in seconds, `1.5GB` in bytes; None for None."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]+)", text)
    unit = found and next((u for u in units if u.lower() == found[2].lower()), None)
    if not unit:
        raise BadInput(f"{option} {text}: give a number and one of {', '.join(units)}")
    return float(found[1]) * units[unit]


def choose(found: Sequence[Found], older_s: float, larger: float, keep: int) -> list[Found]:
    """Those that are old and large enough, oldest first, without the `keep` newest of each kind."""
    kept, before = [], time.time() - older_s
    for kind in KINDS:
        own = [f for f in found if f.kind == kind and f.state not in LEFTOVERS]
        kept += sorted(own, key=lambda f: f.changed, reverse=True)[:keep]
    chosen = [f for f in found if f not in kept and f.changed <= before and f.size >= larger]
    # A half removed one has been chosen before.
    chosen += [f for f in found if f.state == HALF_REMOVED and f not in chosen]
    return sorted(chosen, key=lambda f: (KINDS.index(f.kind), f.changed))


def listing(chosen: Sequence[Found], goes: Sequence[Found]) -> str:
    if not chosen:
        return "nothing found"
    head = ["kind", "path", "age", "size", "state"]
    rows = [[f.kind, shown(f.path), age_text(time.time() - f.changed), size_text(f.size), f.state] for f in chosen]
    runs = len(chosen) - len(goes)
    left = f"; {runs} running, never removed" if runs else ""
    return f"{text_table(head, rows)}\n{len(goes)} can be removed, {size_text(sum(f.size for f in goes))}{left}"


def removes(found: Found) -> bool:
    """Remove it; False, with the reason said, where it was not."""
    try:
        found.remove()
    except Runs as error:
        print(f"{PROGRAM}: {shown(found.path)}: left, it is running: {error}", file=sys.stderr)
    except Exception as error:  # the disk's, the database's: the others are removed all the same
        print(f"{PROGRAM}: {shown(found.path)}: not removed: {printable(one_line(error))}", file=sys.stderr)
    else:
        return True
    return False


def shown(path: Path) -> str:
    return printable(os.path.relpath(path))


def age_text(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0) / 60:.0f} min"


def size_text(size: float) -> str:
    unit = next((u for u in ("TB", "GB", "MB", "KB") if size >= BYTES[u]), "B")
    return f"{size / BYTES[unit]:.{0 if unit == 'B' else 1}f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
