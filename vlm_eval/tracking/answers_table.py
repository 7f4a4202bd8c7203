"""answers.json: one table a run, which MLflow's Artifact view lays side by side for any number of runs.

The format is that of mlflow.log_table (a DataFrame's JSON, orient="split"), which itself would append to what an
earlier attempt has logged. The page begins with the first column as rows and the second as what is compared.
"""

from __future__ import annotations

import json
from typing import Any

from vlm_eval import judging
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.store import RunFolder
from vlm_eval.tracking.storable import storable

FILE = "answers.json"
TAG = "mlflow.loggedArtifacts"  # how the page knows a table
COLUMNS = ("item", "answer", "rationale", "match_ratio", "error", "question", "reference", "screenshot")


def log_answers_table(client: Any, run_id: str, folder: RunFolder) -> None:
    """Log or replace the table of one run; a row an answer."""
    client.log_dict(run_id, storable({"columns": COLUMNS, "data": rows_of(folder)}), FILE)
    client.set_tag(run_id, TAG, json.dumps([{"path": FILE, "type": "table"}]))


def name_of(item_id: str, repeat: int) -> str:
    """What MLflow calls one answer of a run: the same in every run."""
    return f"{item_id} #{repeat}"


def rows_of(folder: RunFolder) -> list[list[Any]]:
    """One list an answer, in the order of COLUMNS, by item and repeat: the same order in every run."""
    items = {item.item_id: item for item in folder.read("items")}
    answers = sorted(folder.read("answers"), key=lambda answer: (answer.item_id, answer.repeat))
    judgements = judging.judgements_of(folder, judging.main_judge(folder))
    scores = scores_by_answer(judgements, answers)
    said: dict[tuple[str, int], list[str]] = {}
    for j in judgements:
        text = j.rationale if j.status == "ok" else f"{j.status}: {j.error}"
        said.setdefault((j.item_id, j.repeat), []).append(f"{j.judge} {j.order}: {text}")
    rows = []
    for answer in answers:
        item, key = items[answer.item_id], (answer.item_id, answer.repeat)
        ratio = scores[key][1] / scores[key][2] if key in scores and scores[key][2] else None
        judged = ["\n".join(said.get(key, [])) or None, ratio, answer.error]
        rows.append([name_of(*key), answer.text, *judged, item.question, item.reference, item.image])
    return rows
