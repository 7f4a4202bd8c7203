"""What leaves the machine is the person's choice: phone and card numbers, e-mails and listed names masked in texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, List, Mapping

CARD = re.compile(r"(?<![\d.,])(?:\d[ \u00a0-]?){12,18}\d(?![\d.,]?\d)")
PHONE = re.compile(
    r"(?<![\w+])(?:\+\d{1,3}|8)[ \u00a0-]?\(?\d{3}\)?[ \u00a0-]?\d{3}[ \u00a0-]?\d{2}[ \u00a0-]?\d{2}(?!\d)"
)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


@dataclass
class RedactConfig:
    enabled: bool = False  # mask texts and leave the screenshot out
    names: List[str] = field(default_factory=list)  # further words to mask, e.g. people's names; endings included


class Redact:
    """Masks the string values of a case; what stood there is named by kind: [card], [phone], [e-mail], [name]."""

    def __init__(self, config: RedactConfig):
        self.enabled = config.enabled
        # A Russian name has endings: "Иванов" masks "Иванову".
        names = sorted(map(re.escape, config.names), key=len, reverse=True)
        self.names = re.compile(rf"\b(?:{'|'.join(names)})\w{{0,3}}\b", re.IGNORECASE) if names else None

    def __call__(self, case: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.text(v) if isinstance(v, str) else v for key, v in case.items()}

    def text(self, text: str) -> str:
        if not self.enabled:
            return text
        text = EMAIL.sub("[e-mail]", text)
        text = PHONE.sub("[phone]", text)  # before cards: eleven digits would fit neither rule of theirs
        text = CARD.sub("[card]", text)
        return self.names.sub("[name]", text) if self.names else text
