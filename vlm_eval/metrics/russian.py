"""Russian text as words: what counts as the same word to every metric that compares words."""

from __future__ import annotations

import functools
import re
import unicodedata

BETWEEN_WORDS = re.compile(r"[\W_]+")
# Inside words: stress marks and other accents that have no letter of their own, and the soft hyphen.
INSIDE_WORDS = re.compile("[\u0300-\u036f\u00ad]")


def normalise(text: str) -> str:
    """Lower case, ё as е, letters and digits of any script kept, all else a space."""
    text = unicodedata.normalize("NFC", text.lower())  # й and ё written as two code points would lose their mark
    return BETWEEN_WORDS.sub(" ", INSIDE_WORDS.sub("", text).replace("ё", "е"))


def words(text: str) -> list[str]:
    """The normalised words in order; "20 588 ₽" is two, "E-1047" is two."""
    return normalise(text).split()


@functools.lru_cache(maxsize=1 << 17)  # 50 µs a word in plain Python; the words of a support desk come again and again
def stem(word: str) -> str:
    """The stem of a normalised word by the Russian Snowball algorithm; numbers and Latin words stay as they are."""
    return _stemmer().stemWord(word)


@functools.cache
def _stemmer():
    # Not snowballstemmer.stemmer("russian"), which is PyStemmer where that is installed: another version of the rules.
    from snowballstemmer.russian_stemmer import RussianStemmer

    return RussianStemmer()
