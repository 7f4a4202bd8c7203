"""MLflow: one parent run a sweep, one child a run. Files first, MLflow second: all here is read from a folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig

from vlm_eval.provenance import inputs
from vlm_eval.store import RunFolder, read_json
from vlm_eval.tracking.answers_table import log_answers_table

PARAM_LIMIT = 6000  # characters MLflow keeps of a param
TAG_LIMIT = 8000  # and of a tag


@dataclass
class MlflowConfig:
    _target_: str = "???"
    uri: str = "???"
    artifacts: Optional[str] = None
    experiment: str = "vlm-eval"
    screenshots: bool = True


class Mlflow:
    """Through MlflowClient with explicit run ids: no global state, so a sweep's processes cannot mix up runs."""

    def __init__(self, config: MlflowConfig):
        self.config = config
        self._client: Any = None

    def begin_sweep(self, sweep: dict[str, Any], folder: str) -> Optional[str]:
        """The parent run; makes store and experiment first, so that runs need not race for it."""
        run = self._mlflow().create_run(
            self._experiment(), run_name=sweep["sweep_id"], tags={"vlm_eval.kind": "sweep", "vlm_eval.folder": folder}
        )
        self._mlflow().log_param(run.info.run_id, "command", sweep["command"][:PARAM_LIMIT])
        return run.info.run_id

    def log_run(self, cfg: DictConfig, folder: RunFolder) -> str:
        """Params, metrics, artifacts of one run folder, whatever its state; the run's id."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.time import get_current_time_millis

        client, status = self._mlflow(), folder.status()
        parent = read_json(folder.path.parent / "sweep.json").get("mlflow_run_id")
        tags = {
            "vlm_eval.kind": "run",
            "vlm_eval.folder": str(folder.path),
            "vlm_eval.state": status["state"],
            "vlm_eval.error": status.get("error"),
            "vlm_eval.git_commit": folder.provenance().get("git_commit"),
            "model": cfg.model.name,
            "quant": cfg.quant.name,
            "task": cfg.task.name,
            "engine": cfg.engine._target_.split(".")[-2],
            "mlflow.parentRunId": parent,
        }
        judges = folder.provenance().get("judges", {})
        tags["vlm_eval.judges"] = ", ".join(f"{n} (main)" if j["main"] else n for n, j in judges.items()) or None
        tags["judge"] = next((name for name, entry in judges.items() if entry["main"]), None)
        loaded = folder.provenance().get("engine", {})  # what the engine said it holds
        tags |= {name: loaded.get(name) for name in ("checkpoint", "checkpoint_sha256", "bits", "weights_gib")}
        tags["data_sha256"] = data_sha256(folder)
        made_by = folder.provenance().get("metrics", {})
        tags |= {f"vlm_eval.{m}.{k}": v for m, facts in made_by.items() for k, v in facts.items()}
        # An earlier attempt at this run goes on in its own MLflow run: no row twice.
        run_id, at = self._if_here(status.get("mlflow_run_id")), get_current_time_millis()
        if run_id is None:
            name, began = _run_name(folder.path), _millis(status["started"])
            run_id = client.create_run(self._experiment(), start_time=began, run_name=name).info.run_id
            folder.set_mlflow_run(run_id)
        for key, value in tags.items():
            if value is None and key in client.get_run(run_id).data.tags:
                client.delete_tag(run_id, key)
            elif value is not None:
                client.set_tag(run_id, key, value)
        summary = folder.summary()
        # MLflow forgets no metric: of another judge's numbers those that the new main judge has not become nan.
        gone = {n: math.nan for n in client.get_run(run_id).data.metrics if n.startswith("judge") and n not in summary}
        client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), at, 0) for name, value in (summary | gone).items()],
            params=[Param(name, str(value)[:PARAM_LIMIT]) for name, value in inputs(cfg).items()],
        )
        for file in sorted(p for p in folder.path.iterdir() if p.is_file() and not p.name.startswith(".")):
            client.log_artifact(run_id, str(file))
        client.log_artifacts(run_id, str(folder.path / ".hydra"), "hydra")
        log_answers_table(client, run_id, folder)
        if self.config.screenshots:
            self._log_screenshots(run_id, cfg, folder)
        client.set_terminated(run_id, "FINISHED" if status["state"] == "ok" else "FAILED", _millis(status["ended"]))
        return run_id

    def end_sweep(self, sweep: dict[str, Any], folder: str) -> None:
        client, run_id = self._mlflow(), sweep["mlflow_run_id"]
        for file in (Path(folder) / name for name in ("sweep.json", "comparison.csv", "paired.csv")):
            if file.is_file():
                client.log_artifact(run_id, str(file))
        if (report := Path(folder) / "report").is_dir():
            client.log_artifacts(run_id, str(report), "report")
        client.log_metric(run_id, "failed_runs", sweep["failed"])
        if sweep["failed"]:
            client.set_tag(run_id, "vlm_eval.failed_runs", str(sweep["failed"]))
        if sweep.get("not_comparable"):
            client.set_tag(run_id, "vlm_eval.not_comparable", "; ".join(sweep["not_comparable"])[:TAG_LIMIT])
        client.set_terminated(run_id, "FINISHED")

    def how_to_open(self) -> str:
        if self.config.uri.startswith("sqlite"):
            return "Compare in MLflow: scripts/mlflow, then http://127.0.0.1:5000"
        return f"Compare in MLflow: {self.config.uri}"

    def _if_here(self, run_id: Optional[str]) -> Optional[str]:
        """The id, if this store has such a run: an earlier attempt may have gone to another store."""
        from mlflow.exceptions import MlflowException

        try:
            return run_id and self._mlflow().get_run(run_id).info.run_id
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _log_screenshots(self, run_id: str, cfg: DictConfig, folder: RunFolder) -> None:
        root = Path(folder.provenance().get("data_root", cfg.task.data.root))
        for image in sorted({item.image for item in folder.read("items") if not item.error}):
            self._mlflow().log_artifact(run_id, str(root / image), f"screenshots/{Path(image).parent}")

    def _mlflow(self) -> Any:
        if self._client is None:
            self._client = client_of(self.config.uri)
        return self._client

    def _experiment(self) -> str:
        client = self._mlflow()
        known = client.get_experiment_by_name(self.config.experiment)
        if known is not None:
            return known.experiment_id
        where = Path(self.config.artifacts).resolve().as_uri() if self.config.artifacts else None
        return client.create_experiment(self.config.experiment, artifact_location=where)


def data_sha256(folder: RunFolder) -> Optional[str]:
    """Of what was asked and what it is held against; None where no items were read. Equal for runs over equal data."""
    things = [(i.item_id, i.image_sha256, i.question, i.reference) for i in folder.read("items")]
    return hashlib.sha256(json.dumps(sorted(things, key=str)).encode()).hexdigest() if things else None


def client_of(uri: str) -> Any:
    """An MlflowClient; of a sqlite store whose folder is made if need be."""
    # MLflow's own 7 retries keep a run waiting for minutes when a server is down; the files have it all anyway.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # making a new store is not news
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///")).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{file}"
    return MlflowClient(tracking_uri=uri)


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
    return ",".join(value if "." not in key else f"{key}={value}" for key, _, value in apart)
