"""Several judges over the same answers: their mean counts, and how far they agree is reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Optional, Sequence

from omegaconf import OmegaConf

from vlm_eval import config as configs
from vlm_eval.errors import BadInput
from vlm_eval.judges.base import Judge, JudgeRequest
from vlm_eval.judges.llm import LlmJudge
from vlm_eval.rows import Judgement


@dataclass
class PanelJudgeConfig:
    _target_: str = "???"
    name: str = "panel"
    members: Dict[str, Any] = field(default_factory=dict)  # configs of judges, composed by Hydra's defaults
    max_fail_rate: float = 0.1


class PanelJudge(Judge):
    """Members judge one after another; each keeps its own rows, under its own name."""

    def __init__(self, config: PanelJudgeConfig):
        self.name = config.name
        self.members = {
            key: configs.build_part(OmegaConf.create(node), f"judge.members.{key}")
            for key, node in config.members.items()
            if node
        }
        if len(self.members) < 2:
            raise BadInput(f"judge.members: a panel has two members or more, this one {len(self.members)}")
        self.names = tuple(member.name for member in self.members.values())
        if len(set(self.names)) < len(self.names):
            raise BadInput(
                f"judge.members: two have the same name: {', '.join(self.names)}; give one judge.members.KEY.name"
            )
        for key, member in self.members.items():
            if not isinstance(member, LlmJudge) or not member.may_sit_on_a_panel:
                raise BadInput(f"judge.members.{key}: {member.name} is no model with an opinion of its own")
        if len({member.needs_both for member in self.members.values()}) > 1:
            raise BadInput("judge.members: pairwise judges and judges against a reference have no common scale")

    def card_gib(self) -> Optional[float]:
        sizes = [member.card_gib() for member in self.members.values()]
        return None if None in sizes else max(sizes)

    def check(self) -> None:
        for member in self.members.values():
            member.check()

    def environment(self) -> dict[str, str]:
        wanted: dict[str, str] = {}
        for member in self.members.values():
            wanted |= member.environment()
        return wanted

    def facts(self) -> dict[str, Any]:
        return {"judge_panel": {member.name: member.facts() for member in self.members.values()}}

    def cost(self, answers: int) -> tuple[int, Optional[float]]:
        costs = [member.cost(answers) for member in self.members.values()]
        usd = [c[1] for c in costs]
        return sum(c[0] for c in costs), None if None in usd else sum(usd)

    def judge(self, requests: Sequence[JudgeRequest], spent_usd: float = 0.0) -> Iterator[list[Judgement]]:
        for member in self.members.values():
            yield from member.judge(requests, spent_usd / len(self.members))
