"""The language of the answers: mistakes in Russian, scripts, refusals."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, List, Mapping, Optional, Sequence

from vlm_eval import paths
from vlm_eval.errors import BadInput
from vlm_eval.metrics import grammar
from vlm_eval.metrics.base import Answered, Columns, Key, column, score_texts
from vlm_eval.metrics.refusals import is_refusal
from vlm_eval.metrics.russian import normalise, stem
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_ratio, named_share

WORD = re.compile(r"(?:[^\W_][\u0300-\u036f\u00ad]*)+")  # letters and digits, with the accents that stand on them


@dataclass
class LanguageConfig:
    _target_: str = "???"
    backend: str = "auto"
    remote_server: Optional[str] = None
    brands: Optional[str] = "brands.txt"
    words: List[str] = field(default_factory=list)
    words_file: Optional[str] = None
    disabled_categories: List[str] = field(default_factory=list)
    disabled_rules: List[str] = field(default_factory=list)


class Language:
    """Columns of an answer, counted in its text as it is:

    `grammar_errors` and the texts that were marked, `error_words`; both None, with the reason in
    `grammar_error_reason`, where nobody could check. `russian_words`: the words that Russian rules can judge.
    `foreign_letters`: neither Cyrillic nor Latin. `latin_share`: of all letters, None without any. `latin_words`: each
    once, in lower case. `mainly_latin`: a share over one half. `refusal`: see refusals.py.
    """

    def __init__(self, config: LanguageConfig):
        self.config = config
        self._facts: dict[str, Optional[str]] = {}

    def check(self) -> Optional[str]:
        self._known_words()
        grammar.choose(self.config.backend, self.config.remote_server)
        return None

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        known = self._known_words()
        with grammar.opened(self.config.backend, self.config.remote_server) as checker:
            self._facts = {"backend": checker.name, "known_words": known.hash}

            def columns(text: str) -> Columns:
                return {**self._mistakes(text, checker, known), **of_scripts(text), "refusal": is_refusal(text)}

            return score_texts(data, lambda texts: map(columns, texts))

    def _mistakes(self, text: str, checker: grammar.Checker, known: KnownWords) -> Columns:
        words = {"russian_words": sum(any(script(c) == "Cyrillic" for c in word) for word in WORD.findall(text))}
        try:
            found = checker.mistakes(text)
        except grammar.CannotCheck as why:
            return {"grammar_errors": None, "error_words": None, "grammar_error_reason": str(why), **words}
        ours = known.places(text) if found else []
        marked = [
            text[mistake.start : mistake.end]
            for mistake in found
            if mistake.category not in self.config.disabled_categories
            and mistake.rule not in self.config.disabled_rules
            and not any(_is_of(mistake, place) for place in ours)
        ]
        return {"grammar_errors": len(marked), "error_words": marked, **words}

    def _known_words(self) -> KnownWords:
        entries = list(self.config.words)
        if self.config.brands:
            entries += _lines(self.config.brands, "brands")
        if self.config.words_file:
            entries += _lines(self.config.words_file, "words_file")
        return KnownWords(entries)

    def facts(self) -> Mapping[str, str | None]:
        return self._facts

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        scored = [s for s in scores if "refusal" in s.values]
        if not scored:
            return {}
        checked = [s for s in scored if s.values["grammar_errors"] is not None]
        summary = {"language/grammar_unchecked": len(scored) - len(checked)}
        if len(checked) == len(scored):  # the sum over some of the answers would look like few errors
            summary["language/grammar_errors_sum"] = sum(s.values["grammar_errors"] for s in checked)
        pairs = zip(column(checked, data, "grammar_errors"), column(checked, data, "russian_words"), strict=True)
        per_words = [(cluster, 100 * errors, words) for (cluster, errors), (_, words) in pairs]
        summary |= named_ratio("language/grammar_errors_per_100_words", per_words)
        summary["language/foreign_letters_sum"] = sum(s.values["foreign_letters"] for s in scored)
        summary |= named_share("language/latin_share_mean", column(scored, data, "latin_share"))
        summary["language/latin_words_unique"] = len({word for s in scored for word in s.values["latin_words"]})
        for name, of in (("mainly_latin_rate", "mainly_latin"), ("refusal_rate", "refusal")):
            rates = [(cluster, float(value)) for cluster, value in column(scored, data, of)]
            summary |= named_share(f"language/{name}", rates)
        return summary


def _is_of(mistake: grammar.Mistake, place: tuple[int, int]) -> bool:
    """Whether a known word is to blame. Spelling and grammar rules look words up, find a brand missing or take it for
    something else, and mark it with its neighbours ("в пуши": a preposition before a verb)."""
    start, end = place
    if mistake.category in ("TYPOS", "GRAMMAR"):
        return mistake.start < end and start < mistake.end
    return start <= mistake.start and mistake.end <= end


def of_scripts(text: str) -> Columns:
    letters = Counter(script(char) for char in text)
    total = letters["Cyrillic"] + letters["Latin"] + letters["foreign"]
    share = letters["Latin"] / total if total else None
    return {
        "foreign_letters": letters["foreign"],
        "latin_share": share,
        "latin_words": latin_words(text),
        "mainly_latin": share is not None and share > 0.5,
    }


@functools.lru_cache(maxsize=1 << 16)
def script(char: str) -> Optional[str]:
    """Cyrillic, Latin or foreign, by the letter's Unicode name; None of what is no letter.

    A styled letter (fullwidth, mathematical bold) is the letter that it stands for.
    """
    if not char.isalpha():
        return None
    name = unicodedata.name(unicodedata.normalize("NFKC", char)[0], "")
    if name.startswith("MODIFIER LETTER"):  # a kind of apostrophe
        return None
    return "Cyrillic" if "CYRILLIC" in name else "Latin" if "LATIN" in name else "foreign"


def latin_words(text: str) -> list[str]:
    """Runs of Latin letters, each once, in lower case and in order; "can't" and "Wi-Fi" are one each."""
    text = unicodedata.normalize("NFC", text)
    runs = "".join(c if script(c) == "Latin" else c if c in "'’-" else " " for c in text).split()
    return list(dict.fromkeys(word for run in runs if (word := run.strip("'’-").lower())))


class KnownWords:
    """Words and phrases that are right whatever a dictionary says, in every case form that keeps the stem."""

    def __init__(self, entries: Iterable[str]):
        phrases = {tuple(stem(normalise(word)) for word in WORD.findall(entry)) for entry in entries}
        self._phrases = phrases - {()}
        self._lengths = sorted({len(phrase) for phrase in self._phrases})
        self.hash = hashlib.sha256(repr(sorted(self._phrases)).encode()).hexdigest()[:8]

    def places(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each occurrence."""
        words = [(stem(normalise(found[0])), *found.span()) for found in WORD.finditer(text)]
        return [
            (words[first][1], words[first + length - 1][2])
            for length in self._lengths
            for first in range(len(words) - length + 1)
            if tuple(word for word, _, _ in words[first : first + length]) in self._phrases
        ]


def _lines(name: str, key: str) -> list[str]:
    """The lines of a list: a path from where the person stands, else a file in conf/metrics; `#` starts a comment."""
    here = Path(name)
    file = here if here.is_file() else paths.conf() / "metrics" / name
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadInput(f"metrics.language.{key}={name}: no such file, here or in conf/metrics") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"metrics.language.{key}={name}: not UTF-8 text: {error}") from error
    return [line.partition("#")[0] for line in lines]
