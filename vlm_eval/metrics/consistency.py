"""How much the answers to one item differ between its repeats."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import Optional, Sequence

from vlm_eval.metrics.base import Answered, Columns, Key, PlainMetric
from vlm_eval.metrics.facts import found_facts
from vlm_eval.metrics.rouge import overlap_f
from vlm_eval.metrics.russian import words
from vlm_eval.rows import Answer, Item, Score
from vlm_eval.statistics.intervals import named_mean, named_share


@dataclass
class ConsistencyConfig:
    _target_: str = "???"


class Consistency(PlainMetric):
    """Columns hold an answer against the item's other answers; the summary has one value an item. A failed answer is
    like no other and is left out; of an item with one answer nothing is said."""

    def __init__(self, config: ConsistencyConfig):
        pass

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        found: dict[Key, Columns | str] = {}
        for answers in _by_item(data.answers).values():
            texts = [a.text for a in answers if a.text is not None]
            rouge1 = _rouge1_of_pairs(set(texts)) if len(texts) > 1 else {}
            for answer in answers:
                if answer.text is None:
                    columns = "no answer"
                elif len(answers) == 1:
                    columns = "one repeat: nothing to compare"
                elif len(texts) == 1:
                    columns = "no other repeat was answered"
                else:
                    others = texts.copy()
                    others.remove(answer.text)
                    columns = _against(answer.text, others, rouge1)
                found[answer.item_id, answer.repeat] = columns
        return found

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        """exact_rate and rouge1_f_mean: over an item's pairs of answers; length_chars_sd_mean: standard deviation
        (n - 1) of an item's lengths; facts_agreement: share of an item's facts that all answers or none of them have.
        """
        compared = [
            (data.items[item_id], [a.text for a in answers if a.text is not None])
            for item_id, answers in _by_item(data.answers).items()
        ]
        compared = [(item, texts) for item, texts in compared if len(texts) > 1]
        if not compared:
            return {}
        spread = [(item.cluster, statistics.stdev(map(len, texts))) for item, texts in compared]
        agreement = [(item.cluster, _facts_agreement(item, texts)) for item, texts in compared if item.facts]
        return {
            **named_share("consistency/exact_rate", _item_means("same_answers", data, scores)),
            **named_share("consistency/rouge1_f_mean", _item_means("pairwise_rouge1_f", data, scores)),
            **named_mean("consistency/length_chars_sd_mean", spread),
            **named_share("consistency/facts_agreement", agreement),
        }


def _by_item(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.item_id].append(answer)
    return groups


def _against(text: str, others: list[str], rouge1: dict[frozenset[str], Optional[float]]) -> Columns:
    """Share of the others that are the same to the letter, and mean ROUGE-1 F against each of them."""
    shared = [f for other in others if (f := 1.0 if other == text else rouge1[frozenset((text, other))]) is not None]
    return {
        "same_answers": sum(other == text for other in others) / len(others),
        "pairwise_rouge1_f": statistics.fmean(shared) if shared else None,
    }


def _rouge1_of_pairs(texts: set[str]) -> dict[frozenset[str], Optional[float]]:
    """ROUGE-1 F (the same both ways) of every two different texts; None where neither has a word."""
    words_of = {text: words(text) for text in texts}
    return {
        frozenset((one, other)): overlap_f(words_of[one], words_of[other]) if words_of[one] or words_of[other] else None
        for one, other in combinations(texts, 2)
    }


def _item_means(name: str, data: Answered, scores: Sequence[Score]) -> list[tuple[str, float]]:
    """(cluster, mean of the column over the item's answers): every pair of answers counts twice, so all alike."""
    groups: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.values.get(name) is not None:
            groups[score.item_id].append(score.values[name])
    return [(data.items[item_id].cluster, statistics.fmean(values)) for item_id, values in groups.items()]


def _facts_agreement(item: Item, texts: list[str]) -> float:
    found = [found_facts(text, item.facts) for text in texts]
    return statistics.fmean(len(set(states)) == 1 for states in zip(*found, strict=True))
