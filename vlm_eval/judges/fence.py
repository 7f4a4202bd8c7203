"""Answers are data to the judge. They are fenced as JSON; one that tries to instruct the judge is flagged besides."""

from __future__ import annotations

import re
from typing import Optional

# What people and models write to sway a judge, in Russian and English; a flag is for a person to look at, no score.
ATTEMPTS = re.compile(
    r"""
      (?:ignore|disregard|forget)\s+(?:\w+\s+){0,3}(?:instructions?|rubric|criteria|prompt|rules)
    | (?:give|assign|award|rate|score)\s+(?:(?:it|this|answer|a|the|of|score)\s+){0,4}(?:10|ten|maximum|highest|full)\b
    | (?:you\s+are|act\s+as)\s+(?:now\s+)?(?:a|the|an)\s+(?:judge|grader|evaluator)
    | (?:игнорируй|забудь|не\s+учитывай)(?:те)?\s+(?:\w+\s+){0,3}(?:инструкци|указани|критери|правил|промпт)
    | (?:поставь|оцени|присвой|дай)(?:те)?\s+(?:\w+\s+){0,4}(?:10|десять|высш|максимальн|наивысш)
    | (?:score_[ab]|"score"|candidate_score)\s*"?\s*[:=]
    | <\|?(?:im_start|im_end|system|endoftext)\|?>
    """,
    re.IGNORECASE | re.VERBOSE,
)


def instructions_in(text: str) -> Optional[str]:
    """The words by which a text seems to instruct its judge, or None."""
    found = ATTEMPTS.search(text)
    return " ".join(found[0].split())[:200] if found else None
