"""What a metric is: columns for each answer, and numbers for the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Protocol, Sequence

from vlm_eval.rows import Answer, Item, Latency, Score

Key = tuple[str, int]  # (item_id, repeat)


@dataclass(frozen=True)
class Answered:
    """All that a metric may look at."""

    items: Mapping[str, Item]
    answers: Sequence[Answer]
    latencies: Sequence[Latency]
    engine: Mapping[str, Any]  # the engine's facts from provenance.json


class Metric(Protocol):
    """Built from its config. `score` gives each answer's columns or the reason why it has none."""

    def score(self, data: Answered) -> dict[Key, dict[str, Any] | str]:
        """Columns by (item_id, repeat); a str instead of columns is the reason why this answer is not scored."""

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        """Numbers for summary.json, under the metric's own prefix."""


def column(scores: Sequence[Score], data: Answered, name: str) -> list[tuple[str, float]]:
    """(cluster, value) of every answer that has this column, for a clustered mean."""
    clusters = {(a.item_id, a.repeat): a.cluster for a in data.answers}
    return [(clusters[s.item_id, s.repeat], s.values[name]) for s in scores if s.values.get(name) is not None]
