"""One answer against a person's: a model scores the candidate alone, the person's answer being the measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.llm import LlmJudge, LlmJudgeConfig, verdict_schema


@dataclass
class ReferenceJudgeConfig(LlmJudgeConfig):
    prompt: str = "reference.ru.txt"


class ReferenceJudge(LlmJudge):
    """One call an answer; the match ratio is the score over 10."""

    def orders(self, request: JudgeRequest, judge_repeat: int) -> Sequence[str]:
        return ("single",)

    def case(self, request: JudgeRequest, order: str) -> dict[str, Any]:
        return {
            "question": request.item.question,
            "reference_answer": request.item.reference,
            "answer": request.answer.text,
        }

    def schema(self) -> Any:
        return verdict_schema("score")

    def scores(self, verdict: Any, order: str) -> tuple[int, None]:
        return verdict.score, None
