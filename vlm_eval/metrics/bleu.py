"""BLEU (Papineni et al. 2002) by sacrebleu: of each answer, and of the run as one text.

Tokenizer intl, not the default 13a: 13a splits off ASCII punctuation only, so that «Оплатить» with its guillemets is
one word that matches no other spelling of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from vlm_eval.metrics.base import Answered, Columns, Key, PlainMetric, column, score_pairs
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_share

SETTINGS = {"tokenize": "intl", "effective_order": True}  # short answers have no 4-grams


@dataclass
class BleuConfig:
    _target_: str = "???"


class Bleu(PlainMetric):
    """Against the item's reference, on the text as it is, so that the numbers are those of the sacrebleu command
    (which gives 0..100); smoothing "exp"."""

    def __init__(self, config: BleuConfig):
        self._counts: dict[tuple[str, str], tuple[int, ...]] = {}  # 4 n-grams matched, 4 there, words of both texts

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        from sacrebleu.metrics import BLEU

        bleu = BLEU(**SETTINGS)

        def one(answer: str, reference: str) -> Columns | str:
            if not reference.strip():
                return "the reference is blank"
            found = bleu.sentence_score(answer, [reference])
            self._counts[answer, reference] = (*found.counts, *found.totals, found.sys_len, found.ref_len)
            # sacrebleu goes through logarithms: two equal texts get 100.00000000000004.
            return {"bleu": min(found.score / 100, 1.0)}

        return score_pairs(data, lambda pairs: (one(*pair) for pair in pairs))

    def facts(self) -> dict[str, str]:
        from sacrebleu.metrics import BLEU

        # sacrebleu knows its signature only once it has seen a reference.
        return {"signature": str(BLEU(**SETTINGS, references=[["-"]]).get_signature())}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        summary = named_share("bleu/mean", column(scores, data, "bleu"))
        return summary | self._corpus(data, scores) if summary else {}

    def _corpus(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        """BLEU as papers give it: n-grams counted over the whole run, which is not the mean over its answers.

        From score()'s counts: sacrebleu's corpus_score would count all again and keep 15 KB an answer in memory."""
        from sacrebleu.metrics import BLEU

        scored = {(s.item_id, s.repeat) for s in scores if s.values.get("bleu") is not None}
        pairs = [(a.text, data.items[a.item_id].reference) for a in data.answers if (a.item_id, a.repeat) in scored]
        sums = [sum(counts) for counts in zip(*(self._counts[pair] for pair in pairs), strict=True)]
        found = BLEU.compute_bleu(sums[:4], sums[4:8], *sums[8:], smooth_method="exp")
        return {"bleu/corpus": min(found.score / 100, 1.0)}
