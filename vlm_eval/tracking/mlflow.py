"""MLflow: one parent run a sweep, one child a run. Files first, MLflow second: all here is read from a folder."""

from __future__ import annotations

import contextlib
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig

from vlm_eval.engines.recorded import recorded_config
from vlm_eval.provenance import inputs
from vlm_eval.secrets import mask
from vlm_eval.store import RunFolder, read_json
from vlm_eval.tracking.answers_table import log_answers_table
from vlm_eval.tracking.client import client_of
from vlm_eval.tracking.run_facts import PARAM_LIMIT, PARAMS_A_CALL, key_of, log_facts, tags_of
from vlm_eval.tracking.write_rows import log_rows

LOCAL = "mlruns/mlflow.db"  # the store that scripts/mlflow opens, where one stands
TAG_LIMIT = 8000  # characters MLflow keeps of a tag
KEY = "vlm_eval.key"  # tag: which folder a run is of
ROWS_MISSING = "vlm_eval.rows_missing"  # tag: why not all answers are there as evaluation rows


@dataclass
class MlflowConfig:
    _target_: str = "???"
    uri: str = "???"
    artifacts: Optional[str] = None
    experiment: str = "vlm-eval"
    screenshots: bool = True
    rows: bool = True


class Mlflow:
    """Through MlflowClient with explicit run ids: no global state, so a sweep's processes cannot mix up runs."""

    def __init__(self, config: MlflowConfig):
        self.config = config
        self._listed: dict[tuple[str, str], set[str]] = {}

    def begin_sweep(self, sweep: dict[str, Any], folder: str) -> Optional[str]:
        """The parent run, as it is or new; makes store and experiment first, so that runs need not race for it."""
        if run_id := self._run_of(Path(folder), sweep.get("mlflow_run_id")):
            return run_id
        key = key_of(Path(folder))
        tags = {"vlm_eval.kind": "sweep", "vlm_eval.folder": folder, KEY: key}
        began = _millis(sweep["started"])
        run = self._client.create_run(self._experiment, start_time=began, run_name=sweep["sweep_id"], tags=tags)
        self._client.log_param(run.info.run_id, "command", sweep["command"][:PARAM_LIMIT])
        return run.info.run_id

    def log_run(self, cfg: DictConfig, folder: RunFolder) -> str:
        """Everything of one run folder, whatever its state; the run's id. Said again, only what is new is logged.

        RuntimeError where MLflow has not all answers as rows; the rest is logged by then."""
        client, status = self._client, folder.status()
        sweep = read_json(folder.path.parent / "sweep.json")
        parent = self._run_of(folder.path.parent, sweep.get("mlflow_run_id")) if sweep else None
        tags = tags_of(cfg, folder, parent)
        # An earlier attempt at this run goes on in its own MLflow run: no row twice.
        run_id = self._run_of(folder.path, status.get("mlflow_run_id"))
        if run_id is None:
            name, began, key = _run_name(folder.path), _millis(status["started"]), key_of(folder.path)
            run = client.create_run(self._experiment, start_time=began, run_name=name, tags={KEY: key})
            run_id = run.info.run_id
        if status.get("mlflow_run_id") != run_id:  # of the store that got it last
            with contextlib.suppress(PermissionError):  # it is found by its key too
                folder.set_mlflow_run(run_id)
        try:
            log_facts(client, run_id, cfg, folder, tags)
            for file in sorted(p for p in folder.path.iterdir() if p.is_file() and not p.name.startswith(".")):
                client.log_artifact(run_id, str(file))
            client.log_artifacts(run_id, str(folder.path / ".hydra"), "hydra")
            log_answers_table(client, run_id, folder)
            if self.config.screenshots:
                self._log_screenshots(run_id, cfg, folder)
            if self.config.rows:
                self._log_rows(run_id, cfg, folder, {k: tags[k] for k in ("model", "quant", "task")})
        finally:  # whatever could not be logged, the run itself has ended
            client.set_terminated(run_id, "FINISHED" if status["state"] == "ok" else "FAILED", _millis(status["ended"]))
        return run_id

    def end_sweep(self, sweep: dict[str, Any], folder: str) -> None:
        """What stands at the end of a sweep, on its parent run: FINISHED, with the failed runs counted."""
        client, run_id = self._client, self.begin_sweep(sweep, folder)
        for file in (Path(folder) / name for name in ("sweep.json", "comparison.csv", "paired.csv")):
            if file.is_file():
                client.log_artifact(run_id, str(file))
        self._log_config(run_id, sweep, Path(folder))
        if (report := Path(folder) / "report").is_dir():
            self._log_report(run_id, report)
        client.log_metric(run_id, "failed_runs", sweep["failed"])
        more = {"vlm_eval.failed_runs": str(sweep["failed"]) if sweep["failed"] else None}
        more["vlm_eval.not_comparable"] = "; ".join(sweep.get("not_comparable") or [])[:TAG_LIMIT] or None
        known = client.get_run(run_id).data.tags
        for name, value in more.items():
            if value is not None:
                client.set_tag(run_id, name, value)
            elif name in known:  # of an earlier attempt
                client.delete_tag(run_id, name)
        client.set_terminated(run_id, "FINISHED", sweep.get("ended") and _millis(sweep["ended"]))

    def how_to_open(self) -> str:
        uri = self.config.uri
        if uri.startswith("sqlite:///") and Path(uri.removeprefix("sqlite:///")).resolve() == Path(LOCAL).resolve():
            return "Compare in MLflow: scripts/mlflow, then http://127.0.0.1:5000"
        return f"Compare in MLflow: {uri}" if "://" in uri and not uri.startswith("sqlite") else f"In MLflow's {uri}"

    def _log_report(self, run_id: str, report: Path) -> None:
        """Whole, or where no screenshot may be kept, without those beside its page, and without the page, which has
        them in it."""
        for file in sorted(f for f in report.rglob("*") if f.is_file()):
            inside = file.relative_to(report)
            if self.config.screenshots or inside.parts[0] not in ("screenshots", "index.html"):
                self._client.log_artifact(run_id, str(file), str("report" / inside.parent))

    def _log_rows(self, run_id: str, cfg: DictConfig, folder: RunFolder, tags: dict[str, str]) -> None:
        root = folder.data_root(cfg.task.data.root)
        known = self._client.get_run(run_id).data.tags
        try:
            log_rows(self._client, run_id, self._experiment, folder, root, self.config.screenshots, tags)
        except RuntimeError as error:
            self._client.set_tag(run_id, ROWS_MISSING, mask(str(error)))
            raise
        if ROWS_MISSING in known:
            self._client.delete_tag(run_id, ROWS_MISSING)

    def _log_config(self, run_id: str, sweep: dict[str, Any], folder: Path) -> None:
        """config.yaml: what all runs have in common, and each one's own overrides. In common: params too."""
        from mlflow.entities import Param

        started = [
            f for f in (folder / p["folder"] for p in sweep["points"]) if (f / ".hydra" / "config.yaml").is_file()
        ]
        configs = [inputs(recorded_config(RunFolder(run), Path(sweep["cwd"]))) for run in started]
        alike = {k: v for k, v in configs[0].items() if all(k in c and c[k] == v for c in configs)} if configs else {}
        own = {point["folder"]: shlex.join(point["overrides"]) for point in sweep["points"]}
        self._client.log_dict(run_id, {"command": sweep["command"], "common": alike, "runs": own}, "config.yaml")
        known = self._client.get_run(run_id).data.params
        params = [Param(k, str(v)[:PARAM_LIMIT]) for k, v in alike.items() if k not in known]
        for start in range(0, len(params), PARAMS_A_CALL):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_A_CALL])

    def _run_of(self, folder: Path, known: Optional[str]) -> Optional[str]:
        """The MLflow run of a sweep's or a run's folder: the one its files name, if this store and experiment have it,
        else the one that was made of it (the files may name another store's, or be a copy). None: there is none."""
        filter_ = f"tags.`{KEY}` = '{key_of(folder)}'"
        found = [r for r in self._client.search_runs([self._experiment], filter_) if r.info.run_id != known]
        if self._is_here(known):
            kept = known
        elif found:
            kept = max(found, key=lambda run: (len(run.data.metrics), -run.info.start_time)).info.run_id
        else:
            return None
        # MLflow's client asks again where an answer was lost, and the server may have made a run each time.
        for double in (run.info.run_id for run in found if run.info.run_id != kept):
            self._client.delete_run(double)
            print(f"MLflow run {double}: deleted, {kept} is of the same folder", file=sys.stderr)
        return kept

    def _is_here(self, run_id: Optional[str]) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            info = self._client.get_run(run_id).info if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return bool(info) and info.lifecycle_stage == "active" and info.experiment_id == self._experiment

    def _log_screenshots(self, run_id: str, cfg: DictConfig, folder: RunFolder) -> None:
        """Those that are not there yet; one that is gone from the disk is left out, as the report says too."""
        for image in sorted({item.image for item in folder.read("items") if not item.error}):
            fetched = Path(image).is_absolute()  # and lies in this machine's cache
            file = folder.data_root(cfg.task.data.root) / image
            place = "screenshots/fetched" if fetched else f"screenshots/{Path(image).parent}"
            there = self._artifacts_in(run_id, place)
            if file.is_file() and file.name not in there:
                self._client.log_artifact(run_id, str(file), place)

    def _artifacts_in(self, run_id: str, place: str) -> set[str]:
        if (run_id, place) not in self._listed:
            self._listed[run_id, place] = {Path(a.path).name for a in self._client.list_artifacts(run_id, place)}
        return self._listed[run_id, place]

    @cached_property
    def _client(self) -> Any:
        return client_of(self.config.uri)

    @cached_property
    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(self.config.experiment)
        if known is not None:
            return known.experiment_id
        where = Path(self.config.artifacts).resolve().as_uri() if self.config.artifacts else None
        try:
            return self._client.create_experiment(self.config.experiment, artifact_location=where)
        except MlflowException:  # another sweep has just made it
            if known := self._client.get_experiment_by_name(self.config.experiment):
                return known.experiment_id
            raise


def _millis(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)


def _run_name(run_dir: Path) -> str:
    """What sets this run apart: its overrides, less those that all runs of the sweep share. Groups by their option
    alone (`awq,vqa`), since the page shows only the first letters."""
    points = read_json(run_dir.parent / "sweep.json").get("points", [])
    own = next((p["overrides"] for p in points if p["folder"] == run_dir.name), None)
    if own is None or len(points) < 2:
        return run_dir.name
    apart = sorted(o.partition("=") for o in own if not all(o in p["overrides"] for p in points))
    plain = ("engine.candidate",)  # its value says enough
    return ",".join(v.strip("'\"") if "." not in k or k in plain else f"{k}={v}" for k, _, v in apart)
