"""People's scores, read back from the workbook that scripts/export_for_rating wrote.

A row of the workbook is a text about a screenshot, the reference's among them; what it is called there (`key_of`)
follows from what the rater saw alone. So nobody can tell from a row who wrote it, equal texts are rated once, and the
scores find their answers again in any run that gave them.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from vlm_eval.errors import BadInput
from vlm_eval.judges.base import Judge, JudgeRequest
from vlm_eval.judges.scale import score_of
from vlm_eval.rows import Item, Judgement
from vlm_eval.store import sha256_of
from vlm_eval.tables import read_table

PEOPLE = "people"
KEY, SCORE, COMMENT, RATER = "row", "score", "comment", "rater"  # columns that are read back
SHUFFLED = "shuffled"


def key_of(item: Item, text: str) -> str:
    """What a text about an item is called in a workbook."""
    seen = "\x1f".join((item.image_sha256 or item.image, item.question or "", text))
    # The letter keeps spreadsheets from taking 12e45 for a number.
    return "r" + hashlib.sha256(seen.encode("utf-8", "backslashreplace")).hexdigest()[:12]


@dataclass
class PeopleJudgeConfig:
    _target_: str = "???"
    path: Any = "???"  # a file, or a list of them


@dataclass(frozen=True)
class Rating:
    """One cell of a rater, as it stands, and the comment beside it."""

    score: str
    comment: str


class PeopleJudge(Judge):
    """A judgement for each rater, "people" or "people.RATER". The rater is who the column `rater` names, else of
    several files the file's name. What a rater left out, be it the answer or its reference, is not_asked."""

    name = PEOPLE
    remade = True
    source = "HUMAN"

    def __init__(self, config: PeopleJudgeConfig):
        self.paths = [str(p) for p in config.path] if isinstance(config.path, (list, tuple)) else [str(config.path)]

    def check(self) -> None:
        if not any(rating.score for ratings in self._ratings.values() for rating in ratings.values()):
            raise BadInput(f"judge.path={', '.join(self.paths)}: nobody has scored anything there")

    def facts(self) -> dict[str, Any]:
        return {"judge_raters": ", ".join(self.names), "judge_ratings_sha256": self._sha256}

    @functools.cached_property
    def names(self) -> Sequence[str]:
        return tuple(f"{PEOPLE}.{rater}" if rater else PEOPLE for rater in self._ratings)

    def cost(self, answers: int) -> tuple[int, float]:
        return 0, 0.0

    def judge(self, requests: Sequence[JudgeRequest], spent_usd: float = 0.0) -> Iterator[list[Judgement]]:
        for request in requests:
            yield [self._row(request, name, found) for name, found in zip(self.names, self._ratings.values())]

    def _row(self, request: JudgeRequest, name: str, ratings: Mapping[str, Rating]) -> Judgement:
        item, text = request.item, request.answer.text or ""
        mine, other = ratings.get(key_of(item, text)), ratings.get(key_of(item, item.reference or ""))
        compared = bool((item.reference or "").strip())
        scores: dict[str, float] = {}
        if not text.strip():
            status, error = "not_asked", "no answer"
        elif mine is None or not mine.score:
            status, error = "not_asked", "not rated" if mine else "not in the workbook"
        elif compared and (other is None or not other.score):
            status, error = "not_asked", "its reference is not rated"
        else:
            status, error = "ok", None
            try:
                scores["candidate_score"] = score_of(mine.score)
                if compared:
                    scores["reference_score"] = score_of(other.score)
            except ValueError as wrong:
                whose = "the reference's" if scores else "the answer's"
                scores, status, error = {}, "invalid", f"{whose} score: {wrong}"
        return Judgement(
            item_id=item.item_id,
            repeat=request.answer.repeat,
            judge=name,
            order=SHUFFLED if compared else "single",
            judge_repeat=0,
            saw_image=True,
            candidate_score=scores.get("candidate_score"),
            reference_score=scores.get("reference_score"),
            rationale=mine.comment or None if mine else None,
            status=status,
            cost_usd=0.0,
            error=error,
        )

    @functools.cached_property
    def _ratings(self) -> dict[str, dict[str, Rating]]:
        """rater -> row -> rating, in the order of the files; the rater is "" where nobody is named."""
        found: dict[str, dict[str, Rating]] = {}
        for path in self.paths:
            rows = _read(path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0)
            named = {row[RATER] for row in rows if row.get(RATER)}
            # One name somewhere in the file is the name of who filled it in.
            default = named.pop() if len(named) == 1 else Path(path).stem if len(self.paths) > 1 else ""
            for row in rows:
                ratings = found.setdefault(row.get(RATER) or default, {})
                rating = Rating(row[SCORE], row.get(COMMENT, ""))
                before = ratings.get(row[KEY])
                if before and before.score and rating.score and before.score != rating.score:
                    raise BadInput(
                        f"{path}: {row[KEY]} has two scores by the same rater; name raters in column {RATER}"
                    )
                if before is None or rating.score:
                    ratings[row[KEY]] = rating
        return found

    @functools.cached_property
    def _sha256(self) -> str:
        return sha256_of(*map(Path, self.paths))


@functools.lru_cache(maxsize=8)  # each run of a sweep reads it
def _read(path: str, version: int) -> list[dict[str, str]]:
    rows = read_table(Path(path), only=(KEY, SCORE, COMMENT, RATER))
    for column in (KEY, SCORE):
        if column not in rows[0]:
            raise BadInput(f"{path}: no column {column!r}; give a workbook that scripts/export_for_rating wrote")
    return [{name: cell.strip() for name, cell in row.items()} for row in rows if row[KEY].strip()]
