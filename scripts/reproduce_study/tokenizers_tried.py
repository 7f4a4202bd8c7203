"""What could have cut the study's texts into tokens, and the ROUGE that comes of it."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Callable, Optional, Sequence

from study import Study

from vlm_eval.metrics.rouge import f_measure, lcs_length, overlap_f
from vlm_eval.metrics.russian import stem, words

ROUGES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
CASED = "WordPiece of bert-base-multilingual-cased"
FOLDED = f"{CASED}, it and the text lower-cased and without accents"

Tokenizer = Callable[[str], Sequence]


def tokenizers(vocab: Optional[Path]) -> dict[str, Tokenizer]:
    """Name -> what could have cut the study's texts into tokens."""
    found: dict[str, Tokenizer] = {
        "words": words,
        "stemmed words": lambda text: [stem(word) for word in words(text)],
        "stemmed words and punctuation marks": lambda text: [
            stem(token) for token in re.findall(r"\w+|[^\w\s]", text.lower().replace("ё", "е"))
        ],
    }
    if folder := blingfire_models():
        import blingfire

        def ids(model: str, unknown: int) -> Tokenizer:
            loaded = blingfire.load_model(str(folder / f"{model}.bin"))
            # The ids of `text`, at most as many as it has bytes; blingfire does not cut a text at a model's length.
            return lambda text: blingfire.text_to_ids(
                loaded, text, len(text.encode()) + 1, unk=unknown, no_padding=True
            ).tolist()

        cased = ids("bert_multi_cased", 100)
        found["SentencePiece of XLM-R"] = ids("xlm_roberta_base", 3)
        found[CASED] = cased
        found[f"{CASED}, text lower-cased"] = lambda text: cased(text.lower())
        found[FOLDED] = wordpiece(folded_vocabulary(folder))
    if vocab:
        lines = vocab.read_text(encoding="utf-8").splitlines()
        found[f"WordPiece of {vocab.name}, {len(lines)} entries"] = wordpiece(lines)
    return found


def blingfire_models() -> Optional[Path]:
    try:
        import blingfire
    except ImportError:
        return None
    return Path(blingfire.__file__).parent


def wordpiece(vocabulary: Sequence[str]) -> Tokenizer:
    """As BERT's "uncased" models have it: lower case, accents off (so й is и), then the longest pieces in turn."""
    from tokenizers import BertWordPieceTokenizer

    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = BertWordPieceTokenizer(ids, lowercase=True, strip_accents=True)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def folded_vocabulary(folder: Path) -> list[str]:
    """bert-base-multilingual-cased's vocabulary as near as it can be brought to the "uncased" one's."""
    import blingfire
    import numpy as np
    from tokenizers.normalizers import BertNormalizer

    names = blingfire.load_model(str(folder / "bert_multi_cased.i2w"))
    fold = BertNormalizer(lowercase=True, strip_accents=True).normalize_str
    first = 101  # [CLS]; a piece from inside a word is written to it without a space between

    def token(number: int) -> str:
        pair = blingfire.ids_to_text(names, np.array([first, number], dtype=np.int32), skip_special_tokens=False)
        piece = pair.removeprefix("[CLS]")
        if not piece.startswith(" "):
            return "##" + fold(piece)
        return piece[1:] if re.fullmatch(r" \[[A-Z]+\]", piece) else fold(piece[1:])

    return [token(number) for number in range(119547)]


def rouge_by_row(study: Study, tokenizer: Tokenizer) -> list[tuple[float, float, float]]:
    """ROUGE-1, -2, -L of every recorded row."""
    tokens = cache(lambda text: list(tokenizer(text)))

    @cache
    def measures(answer: str, reference: str) -> tuple[float, float, float]:
        one, other = tokens(answer), tokens(reference)
        two = overlap_f(list(pairwise(one)), list(pairwise(other)))
        return overlap_f(one, other), two, f_measure(lcs_length(one, other), one, other)

    return [measures(row["candidate"], row["reference"]) for row in study.rows]


@dataclass(frozen=True)
class Tried:
    """A tokenizer's ROUGE: `exact` rows, and `means` of the models, by ROUGE."""

    exact: dict[str, int]
    means: dict[str, list[float]]


def tried(study: Study, tokenizer: Tokenizer) -> Tried:
    rows = rouge_by_row(study, tokenizer)
    exact, means = {}, {}
    for number, name in enumerate(ROUGES):
        of_model = defaultdict(list)
        for row, found in zip(study.rows, rows, strict=True):
            of_model[row["model_name"]].append(found[number])
        recorded = [float(row[name]) for row in study.rows]
        exact[name] = sum(abs(a - found[number]) < 1e-6 for a, found in zip(recorded, rows, strict=True))
        means[name] = [statistics.fmean(of_model[model]) for model in study.models]
    return Tried(exact, means)
