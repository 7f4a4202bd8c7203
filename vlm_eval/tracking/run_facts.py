"""What MLflow is told of one run folder: tags, params, metrics, its data set, and what it used over time."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Mapping, Optional

from omegaconf import DictConfig

from vlm_eval import judging
from vlm_eval.provenance import inputs
from vlm_eval.store import RunFolder, read_json
from vlm_eval.tracking.storable import storable

PARAM_LIMIT = 6000  # characters MLflow keeps of a param
METRICS_A_CALL, PARAMS_A_CALL = 1000, 100  # as many as a server takes at once
EVALUATION = {"mlflow.runType": "genai_evaluate"}  # lists the run on the page "Evaluation runs"
LOADED = ("checkpoint", "checkpoint_sha256", "bits", "weights_gib")  # what the engine said it holds
ITEM_COLUMNS = ("item_id", "image", "question", "reference")
RECORDED = "vlm_eval.system_samples"  # tag: how many rows of system.jsonl are logged


def tags_of(cfg: DictConfig, folder: RunFolder, parent: Optional[str]) -> dict[str, Optional[str]]:
    """Tags by which runs are found and grouped; None for what this run has not."""
    provenance, status = folder.provenance(), folder.status()
    judges, engine = judging.judges_of(folder), provenance.get("engine", {})
    found = {
        **EVALUATION,
        "vlm_eval.kind": "run",
        "vlm_eval.folder": str(folder.path),
        "vlm_eval.state": status["state"],
        "vlm_eval.error": status.get("error"),
        "vlm_eval.git_commit": provenance.get("git_commit"),
        "vlm_eval.judges": ", ".join(f"{n} (main)" if j["main"] else n for n, j in judges.items()) or None,
        "model": cfg.model.name,
        "quant": cfg.quant.name,
        "task": cfg.task.name,
        "judge": judging.main_judge(folder),
        "engine": cfg.engine._target_.split(".")[-2],
        "data_sha256": data_sha256(folder),
        "mlflow.parentRunId": parent,
        **{name: engine.get(name) for name in LOADED},
        "vlm_eval.engine_restarts": len(provenance.get("engine_restarts", ())) or None,
        "trust_remote_code": engine.get("trust_remote_code") or None,
        **{f"vlm_eval.{m}.{k}": v for m, facts in provenance.get("metrics", {}).items() for k, v in facts.items()},
    }
    return {name: None if value is None else storable(str(value)) for name, value in found.items()}


def log_facts(client: Any, run_id: str, cfg: DictConfig, folder: RunFolder, tags: Mapping[str, Optional[str]]) -> None:
    """Log what the run has and the store has not yet: logged again, nothing stands twice."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.time import get_current_time_millis

    known, at = client.get_run(run_id).data, get_current_time_millis()
    for name in (name for name, value in tags.items() if value is None and name in known.tags):
        client.delete_tag(run_id, name)
    summary = folder.summary()
    # MLflow forgets no metric: of another judge's numbers those that the new main judge has not become nan.
    logged = {n: v for n, v in known.metrics.items() if not math.isnan(v)}
    gone = {n: math.nan for n in logged if n.startswith("judge") and n not in summary}
    new = {n: v for n, v in (summary | gone).items() if logged.get(n) != v}
    metrics = [Metric(name, float(value), at, 0) for name, value in new.items()]
    begun = int(known.tags.get(RECORDED, 0))
    samples = folder.read("system")[begun:]
    for step, sample in enumerate(samples, start=begun):
        metrics += [Metric(n, v, int(1000 * sample.time_s), step) for n, v in system_metrics(sample).items()]
    params = [Param(n, storable(str(v))[:PARAM_LIMIT]) for n, v in inputs(cfg).items() if n not in known.params]
    wanted = {n: v for n, v in tags.items() if v is not None}
    for start in range(0, len(metrics), METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])
    for start in range(0, len(params), PARAMS_A_CALL):
        client.log_batch(run_id, params=params[start : start + PARAMS_A_CALL])
    wanted[RECORDED] = str(begun + len(samples))
    client.log_batch(run_id, tags=[RunTag(n, v) for n, v in wanted.items()])
    if dataset := dataset_of(cfg, folder):
        client.log_inputs(run_id, [dataset])


def system_metrics(sample: Any) -> dict[str, float]:
    """One moment under MLflow's own names of system metrics, so that its page draws them; memory of the run's own
    processes beside them."""
    found = {
        "system/cpu_utilization_percentage": sample.cpu_percent,
        "system/process_memory_usage_megabytes": 1024 * sample.host_gib,
    }
    for number, (busy, held) in enumerate(zip(sample.gpu_percent, sample.gpu_gib, strict=True)):
        found[f"system/gpu_{number}_utilization_percentage"] = busy
        found[f"system/gpu_{number}_memory_usage_megabytes"] = 1024 * held
    return found


def dataset_of(cfg: DictConfig, folder: RunFolder) -> Optional[Any]:
    """The items as an MLflow data set; None where none were read."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    items, digest = folder.read("items"), data_sha256(folder)
    if not items:
        return None
    root = folder.data_root(cfg.task.data.root)
    profile = {"num_rows": len(items), "screenshots": len({i.cluster for i in items})}
    columns = [{"type": "string", "name": n, "required": n in ("item_id", "image")} for n in ITEM_COLUMNS]
    return DatasetInput(
        Dataset(
            name=root.name,
            digest=digest[:36],  # as much as MLflow keeps
            source_type="local",
            source=json.dumps({"uri": str(root)}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps(profile),
        ),
        [InputTag("mlflow.data.context", "evaluation")],
    )


def data_sha256(folder: RunFolder) -> Optional[str]:
    """Of what was asked and what it is held against; None where no items were read. Equal for runs over equal data."""
    things = [(i.item_id, i.image_sha256, i.question, i.reference) for i in folder.read("items")]
    return hashlib.sha256(json.dumps(sorted(things, key=str)).encode()).hexdigest() if things else None


def key_of(folder: Path) -> str:
    """By which a store knows a sweep's folder or a run's, wherever it lies: of its sweep's id and start, and its name.

    A run that is no sweep's is known by its path."""
    sweep = read_json(folder / "sweep.json") or read_json(folder.parent / "sweep.json")
    of = [sweep["sweep_id"], sweep["started"]] if sweep else [str(folder.resolve())]
    name = "" if (folder / "sweep.json").is_file() else folder.name
    return hashlib.sha256(json.dumps([*of, name]).encode()).hexdigest()[:32]
