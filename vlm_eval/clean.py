"""List old sweeps, caches and MLflow artifacts by age and size, and remove them; never what is running.

    scripts/clean                                                     lists, removes nothing
    scripts/clean sweeps mlflow --older-than 30d --larger-than 1GB --keep 5 --remove

Sweeps are those in multirun/, MLflow's store is mlruns/mlflow.db, both where one stands; caches are in $VLM_EVAL_CACHE,
else ~/.cache/vlm-eval. Exit codes: 0 done; 1 something could not be removed, or runs by now; 2 bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence
from urllib.parse import unquote, urlsplit

from vlm_eval.errors import BadInput, one_line, printable
from vlm_eval.store import read_json
from vlm_eval.text_table import text_table

PROGRAM = "scripts/clean"
KINDS = ("sweeps", "caches", "mlflow")
STORE = "sqlite:///mlruns/mlflow.db"
HIDDEN = ".removing-"  # what is being removed, and what an interrupted removal left
# A run that has not ended and wrote something since is taken for running, lock or no lock: its process may be starting,
# or be on another machine whose locks are not seen here.
QUIET_S = 3600
RUNNING, HALF_REMOVED, DELETED, ORPHAN = "running", "half removed", "deleted", "orphan"
LEFTOVERS = (HALF_REMOVED, DELETED, ORPHAN)  # not counted by --keep: nobody looks at them
SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


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


# ------------------------------------------------------------------------------------------------------------- the disk


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


# --------------------------------------------------------------------------------------------------------------- sweeps


def find_sweeps(asked: argparse.Namespace) -> Iterator[Found]:
    """The folders of multirun/ that are a sweep's or a run's; links and other things are none of ours."""
    folder = Path("multirun")
    yield from half_removed("sweeps", folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        is_ours = any(any(path.glob(name)) for name in ("sweep.json", "sweep.lock", "*/status.json", "*/.hydra"))
        if is_ours and not path.is_symlink() and not path.name.startswith(HIDDEN):
            yield Found("sweeps", path, *extent(path), sweep_state(path), lambda path=path: remove_sweep(path))


def sweep_state(folder: Path) -> str:
    """running; died: it says so itself, and is not; failed: one of its runs did not end ok; ok."""
    if is_running(folder):
        return RUNNING
    if not has_ended(folder):
        return "died"
    return "ok" if set(run_states(folder)) == {"ok"} else "failed"


def is_running(folder: Path) -> bool:
    """A sweep's folder, or that above a single run's."""
    return is_fresh(folder) or any(is_locked(file) for file in lock_files(folder))


def is_fresh(folder: Path) -> bool:
    return not has_ended(folder) and time.time() - extent(folder).changed < QUIET_S


def has_ended(folder: Path) -> bool:
    sweep = read(folder / "sweep.json")
    return bool(sweep.get("ended")) if sweep else "running" not in run_states(folder)


def run_states(folder: Path) -> list[str]:
    """Of a sweep's points, or of the runs that are there; one that never began is running as far as can be told."""
    points = [folder / point["folder"] for point in read(folder / "sweep.json").get("points", [])]
    runs = points or [file.parent for file in folder.glob("*/.hydra")]
    return [read(run / "status.json").get("state", "running") for run in runs]


def read(file: Path) -> dict[str, Any]:
    """A JSON file; {} where there is none, or none that can be read."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return {}


def lock_files(folder: Path) -> list[Path]:
    """Held with flock: sweep.lock by a sweep's own process, run.log by that of a run, a judge or an import."""
    return [file for file in [folder / "sweep.lock", *folder.glob("*/run.log")] if file.is_file()]


def is_locked(file: Path) -> bool:
    """Where it cannot be told, it is."""
    try:
        with open(file, "rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def remove_sweep(folder: Path) -> None:
    """With all its locks held, so that nothing begins to run in it until it is gone."""
    with contextlib.ExitStack() as held:
        for file in lock_files(folder):
            opened = held.enter_context(open(file, "r+b"))
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Runs(f"{file.name} is locked") from error
        if is_fresh(folder):
            raise Runs("it has not ended and was just written to")
        take_away(folder)


# --------------------------------------------------------------------------------------------------------------- caches


def find_caches(asked: argparse.Namespace) -> Iterator[Found]:
    """Answers and replies that were paid for, and pictures that were fetched."""
    folder = cache_folder(os.environ, Path.cwd())
    yield from half_removed("caches", folder)
    for path in sorted([*folder.glob("*.sqlite"), *folder.glob("images")]):
        if path.is_symlink() or path.name.startswith(HIDDEN):
            continue
        # SQLite's own files beside it go first: without them it is an older cache, they without it are nothing.
        files = [*(f for f in (Path(f"{path}-shm"), Path(f"{path}-wal")) if f.exists()), path]
        state = RUNNING if users_of(folder) else "ok"
        yield Found("caches", path, *extent(*files), state, lambda files=files: remove_cache(folder, files))


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


def remove_cache(folder: Path, files: Sequence[Path]) -> None:
    if users := users_of(folder):
        raise Runs(f"process {users[0]} may use it")
    for file in files:
        take_away(file)


# --------------------------------------------------------------------------------------------------------------- MLflow


def find_mlflow(asked: argparse.Namespace) -> Iterator[Found]:
    """Sweeps and single runs of ours as the store has them, active or deleted; then artifacts that no run has."""
    uri = asked.uri or STORE
    file = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///"):
        raise BadInput(f"--uri {printable(uri)}: artifacts are removed where they lie: run `mlflow gc` on the server")
    if not file.is_file():
        if asked.uri:
            raise BadInput(f"--uri {uri}: no such store")
        return
    try:
        store = Store(uri)
    except Exception as error:  # MLflow's, SQLAlchemy's: of another release, or no store at all
        raise BadInput(f"MLflow cannot read {uri}: {one_line(error)}; leave it out: {PROGRAM} sweeps caches") from error
    for root in store.roots:
        yield from half_removed("mlflow", root)
        yield from half_removed("mlflow", root / "traces")
    for runs in store.groups():
        folders = store.folders_of(runs)
        size, written = extent(*folders)
        ended = max((run.info.end_time or run.info.start_time) / 1000 for run in runs)
        path = store.folder_of(runs[0]) or file
        yield Found("mlflow", path, size, max(written, ended), group_state(runs), lambda runs=runs: store.remove(runs))
    others = sorted(set(file.parent.glob("*.db")) - {file})
    if others:  # whose artifacts may be in the same folder
        print(f"{PROGRAM}: orphans are not looked for: {others[0]} lies beside {file}", file=sys.stderr)
        return
    for path in store.orphans:
        found = Found("mlflow", path, *extent(path), ORPHAN, lambda path=path: take_away(path))
        if time.time() - found.changed >= QUIET_S:
            yield found


def group_state(runs: Sequence[Any]) -> str:
    """Of the sweep's folder, if it is here. What says RUNNING and cannot be looked at is running, unless a person has
    deleted it."""
    is_deleted = runs[0].info.lifecycle_stage == "deleted"
    for run in runs:
        folder = Path(run.data.tags.get("vlm_eval.folder", "/nowhere"))
        folder = folder.parent if (folder / ".hydra").is_dir() else folder
        if is_running(folder) if folder.is_dir() else run.info.status == "RUNNING" and not is_deleted:
            return RUNNING
    states = {run.info.status for run in runs}
    return DELETED if is_deleted else "died" if "RUNNING" in states else "ok" if states == {"FINISHED"} else "failed"


class Store:
    """An MLflow store on this machine: its runs and traces, and what lies in its artifact folders."""

    def __init__(self, uri: str):
        from mlflow.entities import ViewType

        from vlm_eval.tracking.client import client_of

        self.client = client_of(uri)
        experiments = list(pages(self.client.search_experiments, view_type=ViewType.ALL))
        ids = [e.experiment_id for e in experiments]
        self.roots = sorted({p for e in experiments if (p := local_path(e.artifact_location)) and p.is_dir()})
        # Folders before rows: what is made meanwhile has a row, and is no orphan.
        folders = [f for root in self.roots for f in [*root.iterdir(), *(root / "traces").glob("tr-*")]]
        self.runs = list(pages(self.client.search_runs, experiment_ids=ids, run_view_type=ViewType.ALL))
        self.traces: dict[str, list[Any]] = {}
        known = {run.info.run_id for run in self.runs}
        for trace in pages(self.client.search_traces, locations=ids, include_spans=False):
            known.add(trace.info.trace_id)
            self.traces.setdefault(trace.info.trace_metadata.get("mlflow.sourceRun", ""), []).append(trace.info)
        is_id = re.compile(r"[0-9a-f]{32}|tr-[0-9a-f]{32}").fullmatch
        self.orphans = [f for f in folders if is_id(f.name) and f.name not in known and (f / "artifacts").is_dir()]

    def groups(self) -> Iterator[list[Any]]:
        """A sweep's run with those below it, or a run that is no sweep's; deleted ones apart. Ours alone."""
        found: dict[tuple[str, str], list[Any]] = {}
        for run in self.runs:
            if {"vlm_eval.key", "vlm_eval.kind"} & set(run.data.tags):
                of = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
                found.setdefault((of, run.info.lifecycle_stage), []).append(run)
        for (of, _), runs in found.items():
            yield sorted(runs, key=lambda run: run.info.run_id != of)

    def folder_of(self, run: Any) -> Optional[Path]:
        """The folder that has its id for a name; None where MLflow was told to keep them otherwise."""
        path = local_path(run.info.artifact_uri)
        return path.parent if path and path.parent.name == run.info.run_id else None

    def folders_of(self, runs: Sequence[Any]) -> list[Path]:
        """All of their folders that are there, those of their traces among them: mlflow gc forgets these."""
        found = [self.folder_of(run) for run in runs]
        for trace in (trace for run in runs for trace in self.traces.get(run.info.run_id, [])):
            path = local_path(trace.tags.get("mlflow.artifactLocation", "none:"))
            found.append(path.parent if path and path.parent.name == trace.trace_id else None)
        return [path for path in found if path and path.is_dir()]

    def remove(self, runs: Sequence[Any]) -> None:
        """As MLflow's page and `mlflow gc` do one after the other: deleted, then artifacts, then rows. Where it is
        interrupted they are deleted ones, and the next removal goes on."""
        if group_state(runs) == RUNNING:
            raise Runs("its sweep has not ended")
        if elsewhere := [run.info.artifact_uri for run in runs if self.folder_of(run) is None]:
            raise OSError(f"its artifacts are not in a folder of this machine: {elsewhere[0]}; use mlflow gc")
        for run in runs:
            if run.info.lifecycle_stage == "active":
                self.client.delete_run(run.info.run_id)
        for folder in self.folders_of(runs):
            take_away(folder)
        for run in runs:
            ids = [trace.trace_id for trace in self.traces.get(run.info.run_id, [])]
            for start in range(0, len(ids), 100):
                self.client.delete_traces(run.info.experiment_id, trace_ids=ids[start : start + 100])
            # Not `mlflow gc --run-ids`: that would also purge every deleted experiment, whatever its age.
            self.client._tracking_client.store._hard_delete_run(run.info.run_id)


def pages(search: Callable[..., Any], **what: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(**what, max_results=500, page_token=token)
        yield from page
        if not (token := page.token):
            return


def local_path(uri: str) -> Optional[Path]:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


FIND = {"sweeps": find_sweeps, "caches": find_caches, "mlflow": find_mlflow}

if __name__ == "__main__":
    sys.exit(main())
