"""The report's words: texts.ru.yaml and texts.en.yaml, the same names in both."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vlm_eval.reasons import Reason

LANGUAGES = ("ru", "en")


class _WithComma(float):
    """A number as Russian writes it, in any format."""

    def __format__(self, form: str) -> str:
        return super().__format__(form).replace(".", ",")


class Texts:
    """Sentences and number formats of one language."""

    def __init__(self, language: str):
        if language not in LANGUAGES:
            raise ValueError(f"language={language}: it is {' or '.join(LANGUAGES)}")
        self.language = language

    @cached_property
    def all(self) -> dict[str, Any]:
        file = Path(__file__).with_name(f"texts.{self.language}.yaml")
        return OmegaConf.to_container(OmegaConf.load(file))

    def __call__(self, name: str, **words: Any) -> str:
        return self.all["sentences"][name].format(**words)

    def reason(self, why: Reason) -> str:
        """Why, in this language; English is what it is written in."""
        if self.language == "en":
            return str(why)
        return why.say(self.all["reasons"], _WithComma)

    def task(self, name: str) -> str:
        return self.all["tasks"].get(name, name)

    def metric(self, name: str) -> str:
        """A name of summary.json for people; one that has no words stays as it is."""
        return self.all["metrics"].get(name, name)

    def number(self, value: float, digits: int) -> str:
        text = f"{value:.{digits}f}"
        return text.replace(".", ",") if self.language == "ru" else text

    def signed(self, value: float) -> str:
        sign = "+" if value > 0 else "−" if value < 0 else ""
        return sign + self.number(abs(value), 3)

    def percent(self, share: float) -> str:
        return f"{self.number(100 * share, 0)}\N{NO-BREAK SPACE}%"

    def points(self, difference: float) -> str:
        """A difference of ratios in hundredths."""
        return self.number(100 * difference, 1)
