"""Every answer of a run as MLflow shows it: an evaluation row, with judgements, scores and reference as assessments."""

from __future__ import annotations

import base64
import functools
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Optional

from vlm_eval import images, judging
from vlm_eval.judges.base import SOURCE
from vlm_eval.rows import Answer
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.store import RunFolder
from vlm_eval.tracking.answers_table import name_of
from vlm_eval.tracking.assessments import expected, hash_of, judged, marked, measured
from vlm_eval.tracking.storable import storable

KEY_LENGTH = 50  # characters of a trace's client_request_id in MLflow's tables


@dataclass(frozen=True)
class Row:
    """One answer as MLflow shows it."""

    name: str  # item and repeat
    key: str  # the same, as short as MLflow's databases keep it
    pair: str  # equal for the same question to the same screenshot in another run
    inputs: dict[str, Any]
    image: Optional[Path]
    answer: Answer
    assessments: list[Any]  # of mlflow.entities

    @property
    def content(self) -> str:
        return hash_of([self.pair, self.answer.text, self.answer.error, self.image is not None])


def rows_of(folder: RunFolder, root: Optional[Path]) -> list[Row]:
    """A row an answer, by item and repeat; screenshots are below `root`, None leaves them out."""
    items = {item.item_id: item for item in folder.read("items")}
    answers = sorted(folder.read("answers"), key=lambda a: (a.item_id, a.repeat))
    timed = {(x.item_id, x.repeat): x for x in folder.read("latency")}
    scores = {(s.item_id, s.repeat): s for s in folder.read("scores")}
    judgements = defaultdict(list)
    for j in folder.read("judgements"):
        judgements[j.item_id, j.repeat].append(j)
    matches = scores_by_answer(judging.judgements_of(folder, judging.main_judge(folder)), answers)
    kinds = _kinds_of_judges(folder)
    rows = []
    for answer in answers:
        key, item = (answer.item_id, answer.repeat), items[answer.item_id]
        image = root / item.image if root and not item.error else None
        said = [judged(j, kinds.get(j.judge, SOURCE)) for j in judgements[key]]
        said += measured(matches.get(key), scores.get(key), timed.get(key))
        inputs = {"item": item.item_id, "repeat": answer.repeat, "question": item.question, "screenshot": item.image}
        name = storable(name_of(*key))
        pair = hash_of([item.item_id, answer.repeat, item.image_sha256, item.question])
        rows.append(
            Row(
                name=name,
                key=name if len(name) <= KEY_LENGTH else f"{name[: KEY_LENGTH - 17]}…{hash_of(name)[:16]}",
                pair=pair,
                inputs=storable({k: v for k, v in inputs.items() if v is not None}),
                image=image,
                answer=replace(answer, text=storable(answer.text), error=storable(answer.error)),
                assessments=[marked(a, place) for place, a in enumerate([*said, *expected(item)])],
            )
        )
    return rows


def _kinds_of_judges(folder: RunFolder) -> Mapping[str, str]:
    """Name in the judgements -> what kind of source MLflow calls it."""
    entries = judging.judges_of(folder).values()
    return {name: entry.get("source", SOURCE) for entry in entries for name in entry["names"]}


@functools.lru_cache(maxsize=64)  # repeats and questions share a screenshot
def data_uri(image: str) -> Optional[str]:
    try:
        return "data:image/jpeg;base64," + base64.b64encode(images.thumbnail(Path(image))).decode()
    except images.BadImage:
        return None
