"""What is said of one answer, as MLflow's assessments: judgements, numbers computed, and what was expected."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Iterator, Optional

from vlm_eval.rows import Item, Judgement, Latency, Score
from vlm_eval.tracking.storable import storable

SHOWN_SCORES = ("facts_recall", "facts_precision", "rouge1_f", "bleurt")  # of scores.jsonl, beside the judgements
MARK = "vlm_eval.content"  # metadata: hash of what it says


def judged(j: Judgement, kind: str) -> Any:
    """One judgement; a failed or refused one has its status and reason in place of a value."""
    from mlflow.entities import AssessmentError, AssessmentSource, Feedback

    ok = j.status == "ok"
    told = {"order": j.order, "status": j.status, "judge_repeat": j.judge_repeat, "saw_image": j.saw_image}
    told |= {"reference_score": j.reference_score, "tokens": j.tokens, "cost_usd": j.cost_usd, "flag": j.flag}
    return Feedback(
        name=f"judge {j.judge} {j.order}" + (f" {j.judge_repeat}" if j.judge_repeat else ""),
        value=j.candidate_score if ok else None,
        error=None if ok else AssessmentError(j.status.upper(), storable(j.error) or j.status),
        rationale=storable(j.rationale),
        source=AssessmentSource(kind, j.judge),
        metadata={name: storable(str(value)) for name, value in told.items() if value is not None},
    )


def measured(
    match: Optional[tuple[str, float, float]], score: Optional[Score], timed: Optional[Latency]
) -> Iterator[Any]:
    """What was computed for one answer: its match ratio over the orders, chosen scores, its latency if timed alone."""
    from mlflow.entities import AssessmentSource, Feedback

    numbers: dict[str, Optional[float]] = {"match_ratio": match[1] / match[2] if match and match[2] else None}
    numbers |= {f"metric {name}": score.values.get(name) for name in SHOWN_SCORES} if score else {}
    numbers["metric latency_s"] = timed.latency_s if timed else None
    for name, value in numbers.items():
        if value is not None:
            yield Feedback(name=name, value=round(float(value), 4), source=AssessmentSource("CODE", "vlm-eval"))


def expected(item: Item) -> Iterator[Any]:
    """The reference, else the facts: of more columns MLflow's page would hide the judge's."""
    from mlflow.entities import AssessmentSource, Expectation

    wanted = item.reference if item.reference is not None else "; ".join(item.facts) or None
    if wanted is not None:
        yield Expectation(name="reference", value=storable(wanted), source=AssessmentSource("CODE", "data"))


def marked(assessment: Any, place: int) -> Any:
    """With the hash by which a second attempt knows that it is there; MLflow sorts by the time of making."""
    error = assessment.feedback.error if assessment.feedback else None
    value = assessment.feedback.value if assessment.feedback else assessment.expectation.value
    says = [assessment.name, value, error and [error.error_code, error.error_message], assessment.rationale]
    mark = hash_of([*says, assessment.source.source_type, assessment.metadata])
    assessment.metadata = {**(assessment.metadata or {}), MARK: mark}
    assessment.create_time_ms += place
    return assessment


def hash_of(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()[:32]
