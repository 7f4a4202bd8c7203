"""Facts: what of the screen an answer says (recall), and how much of what it says is on the screen (precision).

An invented amount is the costliest error in support, so inventions are listed as the answer writes them.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Sequence

from vlm_eval.metrics.base import Answered, Columns, Key, PlainMetric, column
from vlm_eval.metrics.claims import Claim, claims
from vlm_eval.metrics.phrases import Token, Word, is_said, sentences, tokens
from vlm_eval.metrics.quantities import Date, Quantity
from vlm_eval.rows import Item, Score
from vlm_eval.statistics.intervals import named_share


@dataclass
class FactsConfig:
    _target_: str = "???"


class Facts(PlainMetric):
    """Recall: share of the item's facts that are in the answer.

    Precision: share of the answer's amounts, dates, times, numbers, codes and names, each counted once, that are in the
    item's screen_text, facts or question; never in its reference, which a model may have made up. Without screen_text
    only numbers are judged, and it is a lower bound: the facts need not be all that is on the screen. An answer without
    claims has no precision.
    """

    def __init__(self, config: FactsConfig):
        pass

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        seen: dict[tuple[str, str], Columns | str] = {}  # repeats often give the same text
        scores: dict[Key, Columns | str] = {}
        for answer in data.answers:
            if answer.text is None:
                scores[answer.item_id, answer.repeat] = "no answer"
                continue
            key = (answer.item_id, answer.text)
            if key not in seen:
                seen[key] = _columns(answer.text, data.items[answer.item_id])
            scores[answer.item_id, answer.repeat] = seen[key]
        return scores

    def facts(self) -> dict[str, str]:
        return {"words": f"pymorphy3-dicts-ru {importlib.metadata.version('pymorphy3-dicts-ru')}"}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        """invented_rate: share of the scored answers that invent anything; no_claims_rate: that claim nothing."""
        invented = [(c, float(bool(found))) for c, found in column(scores, data, "facts_inventions")]
        silent = [(c, float(count == 0)) for c, count in column(scores, data, "facts_claims")]
        return {
            **named_share("facts/recall_mean", column(scores, data, "facts_recall")),
            **named_share("facts/precision_mean", column(scores, data, "facts_precision")),
            **named_share("facts/invented_rate", invented),
            **named_share("facts/no_claims_rate", silent),
        }


def _columns(text: str, item: Item) -> Columns | str:
    if not item.facts and not item.screen_text:
        return "the item has neither facts nor screen_text"
    # Facts hold what an answer must say, not every name on the screen: held against them alone, 51 of the 60 inventions
    # found in the published study's answers were on the screen.
    against = "screen_text" if item.screen_text else "facts, numbers only"
    hits = found_facts(text, item.facts)
    all_claims = claims(text, names=bool(item.screen_text))
    claimed = {wanted: claim.text for claim in all_claims if (wanted := _wanted(claim))}
    sources = [*item.facts, *filter(None, (item.screen_text, item.question))]
    invented = [written for wanted, written in claimed.items() if not _is_on_screen(wanted, sources)]
    missing = ["recall: the item has no facts"] * (not hits) + ["precision: no claims in the answer"] * (not claimed)
    return {
        "facts_recall": sum(hits) / len(hits) if hits else None,
        "facts_precision": 1 - len(invented) / len(claimed) if claimed else None,
        "facts_hits": [fact for fact, hit in zip(item.facts, hits) if hit],
        "facts_misses": [fact for fact, hit in zip(item.facts, hits) if not hit],
        "facts_claims": len(claimed),
        "facts_inventions": invented,
        "facts_checked_against": against,
        "facts_not_scored": "; ".join(missing) or None,
    }


def _wanted(claim: Claim) -> tuple[Token, ...]:
    """Of a name only its words, as a number in it is a claim of its own."""
    if claim.quantity:
        return (claim.quantity,)
    return tuple(token for token in tokens(claim.text) if isinstance(token, Word))


def _is_on_screen(wanted: Sequence[Token], sources: Sequence[str]) -> bool:
    """Of a date its year too, which may be left out where a fact is looked for, but not added."""

    def said(wanted: Sequence[Token]) -> bool:
        return any(is_said(wanted, source) for source in sources)

    readings = [reading for token in wanted if isinstance(token, Quantity) for reading in token.readings]
    years = {reading.year for reading in readings if isinstance(reading, Date) and reading.year}
    return said(wanted) and all(said(tokens(f"{year} год")) for year in years)


def found_facts(text: str, facts: Sequence[str]) -> list[bool]:
    """Which of the facts the text says.

    Amounts, dates, times, numbers and codes are the same by value (quantities.says): a year or a unit may be left out
    on either side, not contradicted; the unit not of whole numbers under 100. Words are the same in all their forms
    and, without a number among them, in any order (phrases.is_said); "Платёж не выполнен" does not say "Платёж
    выполнен". Paraphrases are not found."""
    return [_is_found(fact, text) for fact in facts]


def _is_found(fact: str, text: str) -> bool:
    if not tokens(fact):  # an emoji, "—"
        return fact.strip() in text
    return is_said(tokens(fact), text, across_sentences=len(sentences(fact)) > 1)
