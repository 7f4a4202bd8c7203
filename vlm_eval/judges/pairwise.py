"""Candidate against reference: a model scores both answers, not knowing which is which.

In both orders: a judge leans to a place, and the mean of the two takes the lean out of every item. `order=random` is
the cheaper way of the published study: one order an answer, drawn by its key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Sequence

from vlm_eval.errors import BadInput
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.llm import LlmJudge, LlmJudgeConfig, verdict_schema

ORDERS = ("ab", "ba")  # "ab": the candidate is Answer A


@dataclass
class PairwiseJudgeConfig(LlmJudgeConfig):
    prompt: str = "pairwise.ru.txt"
    order: str = "both"  # or random: one order an answer, half the calls


class PairwiseJudge(LlmJudge):
    """Two calls an answer, or one with order=random."""

    needs_both = True

    def __init__(self, config: PairwiseJudgeConfig):
        if config.order not in ("both", "random"):
            raise BadInput(f"judge.order={config.order}: it is both or random")
        super().__init__(config)
        self.calls_an_answer = 2 if config.order == "both" else 1

    def orders(self, request: JudgeRequest, judge_repeat: int) -> Sequence[str]:
        if self.config.order == "both":
            return ORDERS
        key = f"{request.item.item_id}:{request.answer.repeat}:{judge_repeat}"
        return (ORDERS[hashlib.sha256(key.encode()).digest()[0] % 2],)

    def case(self, request: JudgeRequest, order: str) -> dict[str, Any]:
        texts = [request.answer.text, request.item.reference]
        first, second = texts if order == "ab" else texts[::-1]
        return {"question": request.item.question, "answer_a": first, "answer_b": second}

    def schema(self) -> Any:
        return verdict_schema("score_a", "score_b")

    def scores(self, verdict: Any, order: str) -> tuple[int, int]:
        both = (verdict.score_a, verdict.score_b)
        return both if order == "ab" else both[::-1]
