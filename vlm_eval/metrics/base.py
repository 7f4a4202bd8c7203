"""What a metric is: columns for each answer, and numbers for the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Optional, Protocol, Sequence

from vlm_eval.rows import Answer, Item, Latency, Score, UnderLoad

Key = tuple[str, int]  # (item_id, repeat)
Columns = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """All that a metric may look at."""

    items: Mapping[str, Item]
    answers: Sequence[Answer]
    latencies: Sequence[Latency]
    engine: Mapping[str, Any]  # the engine's facts from provenance.json
    loads: Sequence[UnderLoad] = ()


class Metric(Protocol):
    """Built from its config, cheaply: models are loaded in score(). The methods are called in this order.

    One that may use a GPU also has `card_gib() -> float`: what it takes of it, GiB, 0 where it will use none."""

    def check(self) -> Optional[str]:
        """Before anything starts, in seconds: BadInput for what the user must mend (a folder without weights); a
        sentence when this machine cannot score it (no Hub, no Java) and the run shall go on without it; else None."""

    def score(self, data: Answered) -> Mapping[Key, Columns | str]:
        """Columns by (item_id, repeat); a str instead of columns is the reason why this answer is not scored.

        What keeps the metric from scoring anything here (check()'s sentence) is every answer's reason."""

    def facts(self) -> Mapping[str, str | int | None]:
        """After score(): what the numbers depend on beside answers and config, for provenance.json and MLflow tags.
        Runs whose facts differ are not comparable in this metric, and the closing table says so."""

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        """Numbers for summary.json, under the metric's own prefix."""


class PlainMetric:
    """A metric that needs nothing from the machine and depends on nothing but its config."""

    def check(self) -> Optional[str]:
        return None

    def facts(self) -> Mapping[str, str | int | None]:
        return {}


def column(scores: Sequence[Score], data: Answered, name: str) -> list[tuple[str, float]]:
    """(cluster, value) of every answer that has this column, for a clustered mean."""
    clusters = {(a.item_id, a.repeat): a.cluster for a in data.answers}
    return [(clusters[s.item_id, s.repeat], s.values[name]) for s in scores if s.values.get(name) is not None]


def score_texts(data: Answered, score: Callable[[list[str]], Iterable[Columns | str]]) -> dict[Key, Columns | str]:
    """Scores from the text alone. `score` gets each distinct text once, in order of first appearance, and gives
    columns or a reason for each, in that order. An answer without text is not scored."""
    found = _distinct((a.text for a in data.answers if a.text is not None), score)
    return {(a.item_id, a.repeat): "no answer" if a.text is None else found[a.text] for a in data.answers}


def score_pairs(
    data: Answered, score: Callable[[list[tuple[str, str]]], Iterable[Columns | str]]
) -> dict[Key, Columns | str]:
    """Scores of (answer, reference) pairs, each distinct pair once; an answer without text or an item without a
    reference is not scored, with the reason."""

    def pair(answer: Answer) -> Optional[tuple[str, str]]:
        reference = data.items[answer.item_id].reference
        return (answer.text, reference) if answer.text is not None and reference else None

    found = _distinct((p for a in data.answers if (p := pair(a))), score)

    def why_not(answer: Answer) -> str:
        return "no answer" if answer.text is None else data.items[answer.item_id].no_reference or "no reference"

    return {(a.item_id, a.repeat): found[p] if (p := pair(a)) else why_not(a) for a in data.answers}


def _distinct(things: Iterable[Any], score: Callable[[list[Any]], Iterable[Columns | str]]) -> dict[Any, Columns | str]:
    distinct = list(dict.fromkeys(things))
    # strict: a metric that gives one result too few must not shift all others by one.
    return dict(zip(distinct, score(distinct), strict=True)) if distinct else {}
