"""An MLflow store on this machine: our runs in it, artifacts that no run has, and their removal."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence
from urllib.parse import unquote, urlsplit

from vlm_eval.clean.found import (
    DELETED,
    ORPHAN,
    PROGRAM,
    QUIET_S,
    RUNNING,
    Found,
    Runs,
    extent,
    half_removed,
    take_away,
)
from vlm_eval.clean.sweeps import is_running
from vlm_eval.errors import BadInput, one_line, printable

STORE = "sqlite:///mlruns/mlflow.db"


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
