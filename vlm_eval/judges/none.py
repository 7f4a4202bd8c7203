"""No judge: answers are scored by metrics alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from vlm_eval.judges.base import Judge


@dataclass
class NoJudgeConfig:
    _target_: str = "???"


class NoJudge(Judge):
    name = "none"
    names = ()

    def __init__(self, config: NoJudgeConfig):
        pass

    def check(self) -> None:
        pass

    def facts(self) -> dict:
        return {}

    def judge(self, requests, spent_usd=0.0) -> Iterator[list]:
        return iter(())

    def cost(self, answers: int) -> tuple[int, None]:
        """(calls, USD or None when unknown) for so many answers."""
        return 0, None
