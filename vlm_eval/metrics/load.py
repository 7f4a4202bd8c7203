"""Latency under load, of each level that was measured: how long users wait when others ask at the same time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Sequence

from vlm_eval.metrics.base import Answered, Key, PlainMetric
from vlm_eval.rows import Score, UnderLoad
from vlm_eval.statistics.quantiles import named_quantiles


@dataclass
class LoadConfig:
    _target_: str = "???"


class Load(PlainMetric):
    """Nothing where no load was asked for. Requests that failed are counted, and enter no time."""

    def __init__(self, config: LoadConfig):
        pass

    def score(self, data: Answered) -> dict[Key, dict[str, Any] | str]:
        return {}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        levels: dict[str, list[UnderLoad]] = defaultdict(list)
        for row in data.loads:
            levels[row.level_name].append(row)
        summary: dict[str, float] = {}
        for name, rows in levels.items():
            summary |= _of_level(f"load/{name}", rows)
        return summary


def _of_level(name: str, rows: Sequence[UnderLoad]) -> dict[str, float]:
    answered = [row for row in rows if row.error is None]
    summary: dict[str, float] = {f"{name}/n": len(rows), f"{name}/failed_rate": 1 - len(answered) / len(rows)}
    if not answered:
        return summary
    summary |= named_quantiles(f"{name}/ttft_s", [row.ttft_s for row in answered])
    summary |= named_quantiles(f"{name}/latency_s", [row.latency_s for row in answered])
    # The gaps of an answer, and of those under way beside it, are the same steps of the engine: they say no more of the
    # tail than so many requests do.
    summary |= named_quantiles(f"{name}/itl_s", [gap for row in answered for gap in row.itl_s], len(answered))
    starts = [row.sent_s if row.planned_s is None else row.planned_s for row in answered]
    passed = max(at + row.latency_s for at, row in zip(starts, answered)) - min(starts)
    if passed > 0:
        summary[f"{name}/output_tokens_per_s"] = sum(row.output_tokens for row in answered) / passed
        summary[f"{name}/requests_per_s"] = len(answered) / passed
    return summary
