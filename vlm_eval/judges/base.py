"""What a judge is: it turns (item, candidate's answer, reference) into judgements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Protocol, Sequence

from vlm_eval.rows import Answer, Item, Judgement


@dataclass(frozen=True)
class JudgeRequest:
    """One answer to be judged; `done` are the (order, judge_repeat) that are judged already."""

    item: Item
    answer: Answer
    image: Path
    done: frozenset[tuple[str, int]] = frozenset()


class Judge(Protocol):
    """Built from its config; `name` stands in every judgement."""

    name: str

    def check(self) -> None:
        """BadInput for what would make every judgement fail (no key, no such model); nothing is sent."""

    def facts(self) -> dict[str, Optional[str]]:
        """What goes into provenance: the judge's model, the hash of its prompt."""

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[list[Judgement]]:
        """Judgements as they come; a failure is a judgement with its status and reason, never an exception or a 0."""

    def cost(self, answers: int) -> tuple[int, Optional[float]]:
        """(calls, USD or None when unknown) that so many answers would take."""
