"""A judge that needs a variable to stand before its process starts, and may take the process down with it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Iterator

from vlm_eval.judges.base import Judge
from vlm_eval.rows import Judgement

AT_START = os.environ.get("NEEDY_JUDGE")  # as torch and vllm read theirs


@dataclass
class NeedyJudgeConfig:
    _target_: str = "???"
    dies: bool = False


class NeedyJudge(Judge):
    """No more than the README asks of a judge of one's own, and an environment."""

    name, names = "needy", ("needy",)

    def __init__(self, config: NeedyJudgeConfig):
        self.config = config

    def environment(self) -> dict[str, str]:
        return {"NEEDY_JUDGE": "there"}

    def judge(self, requests, spent_usd=0.0) -> Iterator[list[Judgement]]:
        print("chatter of a library")
        todo = [r for r in requests if not r.done]
        for number, request in enumerate(todo):
            if self.config.dies and number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            key, rationale = (request.item.item_id, request.answer.repeat), f"{AT_START} {os.getpid()}"
            yield [Judgement(*key, "needy", "ab", 0, False, 5, 10, rationale, "ok")]
