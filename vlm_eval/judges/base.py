"""What a judge is: it turns (item, candidate's answer, reference) into judgements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Protocol, Sequence

from vlm_eval.rows import Answer, Item, Judgement

SOURCE = "LLM_JUDGE"


@dataclass(frozen=True)
class JudgeRequest:
    """One answer to be judged; `done` are the (judge, order, judge_repeat) that are judged already."""

    item: Item
    answer: Answer
    image: Path
    done: frozenset[tuple[str, str, int]] = frozenset()


class Judge(Protocol):
    """Built from its config. A judge of one's own subclasses this, sets `name` and `names`, and writes judge()."""

    name: str
    names: Sequence[str]  # what stands in the judgements: its own name, or those of a panel's members
    # It only reads what is written elsewhere: all anew each time, where others are asked again only for what failed.
    remade = False
    # What it is to MLflow: LLM_JUDGE, HUMAN or CODE.
    source = SOURCE

    def environment(self) -> dict[str, str]:
        """Variables that must stand before the run's process starts, as of an engine."""
        return {}

    def card_gib(self) -> Optional[float]:
        """What it takes of a GPU, GiB; None: a whole one."""
        return 0.0

    def check(self) -> None:
        """BadInput for what would make every judgement fail (no key, no such model); nothing is sent."""

    def facts(self) -> dict[str, Optional[str]]:
        """What goes into provenance: the judge's model, the hash of its prompt."""
        return {}

    def judge(self, requests: Sequence[JudgeRequest], spent_usd: float = 0.0) -> Iterator[list[Judgement]]:
        """Judgements as they come; a failure is one with its status and reason, never an exception or a 0.

        `spent_usd` was paid for this run's judgements before, and counts against a budget."""

    def cost(self, answers: int) -> tuple[int, Optional[float]]:
        """(calls, USD or None when unknown) that so many answers would take; here one call each, of unknown price."""
        return answers, None
