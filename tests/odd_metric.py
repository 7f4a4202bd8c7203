"""A metric whose `mode` says what it finds; `ODD_METRIC_MAKER` is what its numbers depend on."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from vlm_eval.errors import BadInput
from vlm_eval.metrics.base import column, score_texts
from vlm_eval.statistics.intervals import named_mean


@dataclass
class OddConfig:
    _target_: str = "???"
    mode: str = "ok"
    sleep_s: float = 0.0


class Odd:
    def __init__(self, config: OddConfig):
        self.mode, self.sleep_s = config.mode, config.sleep_s

    def check(self):
        _log("checked")
        if self.mode == "refused":
            raise BadInput("metrics.odd.mode=refused: no weights in that folder")
        return "no Java here" if self.mode == "unavailable" else None

    def score(self, data):
        if self.mode == "broken":
            raise ValueError("the metric broke")
        _log("scored")
        time.sleep(self.sleep_s)
        return score_texts(
            data, lambda texts: ["no Java here" if self.mode == "unavailable" else {"odd": 1.0} for _ in texts]
        )

    def facts(self):
        return {"maker": os.environ.get("ODD_METRIC_MAKER", "one")}

    def summarise(self, data, scores):
        return named_mean("odd/mean", column(scores, data, "odd"))


def _log(word):
    if os.environ.get("ODD_METRIC_LOG"):
        with open(os.environ["ODD_METRIC_LOG"], "a") as log:
            log.write(f"{word}\n")
