"""answers.json: one table a run, which MLflow's Artifact view lays side by side for any number of runs.

The format is that of mlflow.log_table (a DataFrame's JSON, orient="split"), which itself would append to what an
earlier attempt has logged.
"""

from __future__ import annotations

import json
from typing import Any

from vlm_eval import judging
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.store import RunFolder

FILE = "answers.json"
TAG = "mlflow.loggedArtifacts"  # how the page knows a table
COLUMNS = ["item", "repeat", "screenshot", "question", "reference", "answer", "error", "match_ratio", "rationale"]


def log_answers_table(client: Any, run_id: str, folder: RunFolder) -> None:
    """Log or replace the table of one run; a row an answer."""
    client.log_dict(run_id, {"columns": COLUMNS, "data": rows_of(folder)}, FILE)
    client.set_tag(run_id, TAG, json.dumps([{"path": FILE, "type": "table"}]))


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
        asked = [item.item_id, answer.repeat, item.image, item.question, item.reference]
        rows.append([*asked, answer.text, answer.error, ratio, "\n".join(said.get(key, [])) or None])
    return rows
