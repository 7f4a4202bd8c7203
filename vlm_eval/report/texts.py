"""The report's words: texts.ru.yaml and texts.en.yaml, the same names in both."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from omegaconf import OmegaConf

from vlm_eval.reasons import RULES, Reason

LANGUAGES = ("ru", "en")
DIGITS = {"tech/output_tokens_per_s": 0, "tech/weights_gib": 4, "tech/host_peak_gib": 2, "tech/gpu_peak_gib": 2}


class _Number(float):
    """A number as a language writes it, in any format; `:points` are hundredths."""

    comma = False

    def __format__(self, form: str) -> str:
        text = f"{100 * float(self):.1f}" if form == "points" else super().__format__(form)
        return text.replace(".", ",") if self.comma else text


class _NumberWithComma(_Number):
    comma = True


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

    def __call__(self, name: str, /, **words: Any) -> str:
        return self.all["sentences"][name].format(**words)

    def reason(self, why: Reason) -> str:
        """Why, in this language; what English has no words of its own for is said as it was written."""
        return why.say({**RULES, **self.all["reasons"]}, _NumberWithComma if self.language == "ru" else _Number)

    def task(self, name: str) -> str:
        return self.all["tasks"].get(name, name)

    def metric(self, name: str) -> str:
        """A name of summary.json for people; one that has no words stays as it is."""
        return self.all["metrics"].get(name, name)

    def number(self, value: float, digits: int) -> str:
        text = f"{value:.{digits}f}"
        return text.replace(".", ",") if self.language == "ru" else text

    def signed_points(self, difference: float) -> str:
        """A difference of ratios in hundredths, with its sign."""
        sign = "+" if difference > 0 else "−" if difference < 0 else ""
        return sign + self.points(abs(difference))

    def with_interval(self, summary: Mapping[str, float], name: str) -> tuple[str, Optional[str]]:
        """A number of summary.json and its interval, rounded alike wherever they are shown."""
        digits = DIGITS.get(name, 3)
        ends = [summary.get(f"{name}_ci_{end}") for end in ("low", "high")]
        interval = None if None in ends else f"[{'; '.join(self.number(end, digits) for end in ends)}]"
        return self.number(summary[name], digits), interval

    def short(self, value: float) -> str:
        """As it was given."""
        return f"{_NumberWithComma(value) if self.language == 'ru' else value:g}"

    def list_or(self, names: Sequence[str]) -> str:
        return f" {self.all['sentences']['or']} ".join(names)

    def percent(self, share: float) -> str:
        return f"{self.number(100 * share, 0)}\N{NO-BREAK SPACE}%"

    def points(self, difference: float) -> str:
        """A difference of ratios in hundredths."""
        return self.number(100 * difference, 1)
