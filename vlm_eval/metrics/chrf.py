"""chrF2 (Popović 2015): character n-grams up to 6 shared with the reference, by sacrebleu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from vlm_eval.metrics.base import Answered, Columns, Key, PlainMetric, column, score_pairs
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_share


@dataclass
class ChrfConfig:
    _target_: str = "???"


class Chrf(PlainMetric):
    """Against the item's reference, on the text as it is, so that the numbers are those of the sacrebleu command
    (which gives 0..100). It needs no stemmer for Russian endings and sees single wrong digits."""

    def __init__(self, config: ChrfConfig):
        pass

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        from sacrebleu.metrics import CHRF

        chrf = CHRF()

        def one(answer: str, reference: str) -> Columns | str:
            if not reference.strip():
                return "the reference is blank"
            return {"chrf": chrf.sentence_score(answer, [reference]).score / 100}

        return score_pairs(data, lambda pairs: (one(*pair) for pair in pairs))

    def facts(self) -> dict[str, str]:
        from sacrebleu.metrics import CHRF

        # sacrebleu knows its signature only once it has seen a reference.
        return {"signature": str(CHRF(references=[["-"]]).get_signature())}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        return named_share("chrf/mean", column(scores, data, "chrf"))
