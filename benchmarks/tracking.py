"""How long MLflow takes to get a sweep's answers, judgements and screenshots, over mlflow.genai.evaluate alone.

python benchmarks/tracking.py SWEEP_DIR [--runs 8 --items 158]    # its VQA runs multiplied; a judge in both orders

Ours logs everything (params, metrics, files, tables, rows, the sweep's run); the other way the rows alone, with two
workers: with its default number rows are lost on a sqlite store.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import multiplied

from vlm_eval.store import RunFolder, read_json


def ours(sweep: Path, store: str) -> int:
    """As at the end of runs and sweep; how many rows there are."""
    from vlm_eval import resolvers
    from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig

    resolvers.register_resolvers()
    tracker = Mlflow(MlflowConfig(uri=store, artifacts=str(sweep / "artifacts")))
    described = read_json(sweep / "sweep.json") | {"mlflow_run_id": None, "failed": 0}
    described["mlflow_run_id"] = tracker.begin_sweep(described, str(sweep))
    for point in described["points"]:
        run = RunFolder(sweep / point["folder"])
        run.set_mlflow_run(None)
        tracker.log_run(resolvers.load_config(run.path), run)
    tracker.end_sweep(described, str(sweep))
    return rows_in(store)


def theirs(sweep: Path, store: str) -> int:
    """mlflow.genai.evaluate over the same rows: the same inputs, outputs, expectations and assessments."""
    import os

    os.environ["MLFLOW_GENAI_EVAL_MAX_WORKERS"] = "2"
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import mlflow
    from mlflow.genai import scorer

    from vlm_eval.tracking.evaluation_rows import data_uri, rows_of

    mlflow.set_tracking_uri(store)
    mlflow.create_experiment("vlm-eval", artifact_location=(sweep / "artifacts").as_uri())
    mlflow.set_experiment("vlm-eval")
    for point in read_json(sweep / "sweep.json")["points"]:
        run = RunFolder(sweep / point["folder"])
        rows = {row.name: row for row in rows_of(run, Path(run.provenance()["data_root"]))}

        @scorer
        def recorded(inputs, outputs, rows=rows):
            said = rows[f"{inputs['item']} #{inputs['repeat']}"].assessments
            return [a for a in said if a.feedback]

        data = [
            {
                "inputs": {**row.inputs, "screenshot": data_uri(str(row.image))},
                "outputs": row.answer.text,
                "expectations": {a.name: a.value for a in row.assessments if a.expectation},
            }
            for row in rows.values()
        ]
        with mlflow.start_run(run_name=point["folder"]):
            mlflow.genai.evaluate(data=data, scorers=[recorded])
    return rows_in(store)


def rows_in(store: str) -> int:
    from mlflow import MlflowClient

    client, found, token = MlflowClient(store), 0, None
    where = [client.get_experiment_by_name("vlm-eval").experiment_id]
    while True:
        page = client.search_traces(locations=where, include_spans=False, max_results=500, page_token=token)
        found, token = found + len(page), page.token
        if not token:
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--items", type=int, default=158)
    parser.add_argument("--way", choices=("ours", "theirs"), help=argparse.SUPPRESS)  # for the command's own children
    parser.add_argument("--store", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        began = time.monotonic()
        rows = {"ours": ours, "theirs": theirs}[asked.way](asked.sweep_dir, asked.store)
        print(json.dumps({"seconds": round(time.monotonic() - began, 1), "rows": rows}))
        return
    with tempfile.TemporaryDirectory() as folder:
        sweep = multiplied(asked.sweep_dir, Path(folder) / "sweep", asked.runs, asked.items)
        found = {}
        for way in ("ours", "theirs"):
            store = f"sqlite:///{folder}/{way}.db"
            command = [sys.executable, __file__, str(sweep), "--way", way, "--store", store]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[way] = json.loads(said.splitlines()[-1])
        print(json.dumps(found | {"ratio": round(found["ours"]["seconds"] / found["theirs"]["seconds"], 3)}))


if __name__ == "__main__":
    main()
