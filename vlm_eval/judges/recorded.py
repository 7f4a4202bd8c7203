"""The judgements that came with replayed answers. Nothing is sent and nothing is paid."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

from vlm_eval.engines import recorded
from vlm_eval.engines.matching import match
from vlm_eval.errors import BadInput
from vlm_eval.judges.base import Judge, JudgeRequest
from vlm_eval.judges.scale import score_of
from vlm_eval.judging import judgements_of, main_judge
from vlm_eval.rows import Judgement
from vlm_eval.store import RunFolder

ORDERS = ("ab", "ba", "single")
UNKNOWN = "unknown"  # the order of a table that does not tell, such as the study's, which had one at random
NO_JUDGEMENT = "no judgement recorded"


@dataclass
class RecordedJudgeConfig:
    _target_: str = "???"
    path: Optional[str] = None
    candidate: Optional[str] = None
    columns: Optional[Dict[str, str]] = None
    tracking_uri: Optional[str] = None


class RecordedJudge(Judge):
    """Of a table one judgement an answer, by "recorded" or whom its column `judge` names; of a run folder those of the
    run's main judge, as they were. Cells decide on the status: none is an error, a score off the scale is invalid."""

    name = "recorded"
    remade = True

    def __init__(self, config: RecordedJudgeConfig):
        self.config = config

    def check(self) -> None:
        if not self.config.path:
            raise BadInput(
                "judge=recorded: takes the judgements that came with replayed answers; it needs engine=replay"
            )
        if self._folder:
            if not self._of_run:
                raise BadInput(f"judge=recorded: {self.config.path} has no judgements of a main judge")
        elif not any("candidate_score" in row.judgement for row in self._recorded.rows):
            wanted = (self.config.columns or {}).get("candidate_score", "candidate_score")
            raise BadInput(
                f"judge=recorded: {self.config.path} has no column {wanted!r}; "
                "engine.columns.candidate_score=NAME names it, .reference_score and .rationale the others"
            )
        else:
            for row in self._recorded.rows:
                if row.judgement.get("order", "") not in (*ORDERS, UNKNOWN, ""):
                    order = row.judgement["order"]
                    raise BadInput(f"{self.config.path}: {row.where}: order is {order!r}; it is {', '.join(ORDERS)}")

    def facts(self) -> dict[str, Any]:
        """Of a run what it said of its judge: copies of judgements are comparable when the judgements were."""
        if self._folder:
            return self._folder.provenance().get("judge", {})
        return {"judge_recorded": ", ".join(self.names)}

    @functools.cached_property
    def names(self) -> Sequence[str]:
        if self._folder:
            return tuple(dict.fromkeys(j.judge for rows in self._of_run.values() for j in rows))
        return tuple(dict.fromkeys(self._judge_in(row.judgement) for row in self._recorded.rows))

    def cost(self, answers: int) -> tuple[int, float]:
        return 0, 0.0

    def judge(self, requests: Sequence[JudgeRequest], spent_usd: float = 0.0) -> Iterator[list[Judgement]]:
        asked = [request.item for request in requests if not request.item.error]
        found = {} if self._folder else match(self.config.path, self._recorded.rows, asked)[0]
        for request in requests:
            key = (request.item.item_id, request.answer.repeat)
            if not (request.answer.text or "").strip():
                yield [self._row(key, self.names[0], UNKNOWN, "not_asked", "no answer")]
            elif self._folder:
                yield self._of_run.get(key) or [self._row(key, self.names[0], UNKNOWN, "error", NO_JUDGEMENT)]
            else:
                yield [self._read(key, found[key].judgement if key in found else {})]

    def _read(self, key: tuple[str, int], cell: Mapping[str, str]) -> Judgement:
        """A row from the cells of a table. Without a column for the reference the candidate was scored alone."""
        order = cell.get("order") or ("single" if "reference_score" not in cell else UNKNOWN)
        row = replace(self._row(key, self._judge_in(cell), order, "ok"), rationale=cell.get("rationale") or None)
        scores: dict[str, float] = {}
        for name in ("candidate_score",) if order == "single" else ("candidate_score", "reference_score"):
            text = cell.get(name, "").strip()
            if text.lower() in ("", *recorded.NO_TEXT):
                return replace(row, status="error", error=f"{NO_JUDGEMENT}: no {name}")
            try:
                scores[name] = score_of(text)
            except ValueError as error:
                return replace(row, status="invalid", error=f"{name}: {error}")
        return replace(row, **scores)

    def _judge_in(self, cell: Mapping[str, str]) -> str:
        return cell.get("judge") or self.name

    @staticmethod
    def _row(key: tuple[str, int], judge: str, order: str, status: str, error: Optional[str] = None) -> Judgement:
        # Whether that judge saw the screenshot is not known; false says that nothing shows that it did.
        return Judgement(*key, judge, order, 0, False, None, None, None, status, cost_usd=0.0, error=error)

    @functools.cached_property
    def _folder(self) -> Optional[RunFolder]:
        return recorded.run_folder(self.config.path, self.config.candidate, self.config.tracking_uri)

    @functools.cached_property
    def _recorded(self) -> recorded.Recorded:
        config = self.config
        return recorded.read(config.path, config.columns or {}, config.candidate, config.tracking_uri)

    @functools.cached_property
    def _of_run(self) -> dict[tuple[str, int], list[Judgement]]:
        rows: dict[tuple[str, int], list[Judgement]] = {}
        for j in judgements_of(self._folder, main_judge(self._folder)):
            rows.setdefault((j.item_id, j.repeat), []).append(replace(j, cost_usd=0.0, tokens=None, cached=True))
        return rows
