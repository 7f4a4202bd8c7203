"""The scale of every judge, 1 to 10, as it stands in a cell of somebody's table."""

from __future__ import annotations

LOWEST, HIGHEST = 1, 10


def score_of(cell: str) -> float:
    """The score in a cell, 7 or 7.5 or 7,5; ValueError says why it is none. Nothing is clipped."""
    text = cell.strip()
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = None
    if value is None or "_" in text or not text.isascii():  # Python takes 1_0 for ten
        raise ValueError(f"{text[:40]!r} is not a number")
    if not LOWEST <= value <= HIGHEST:  # nan too
        raise ValueError(f"{text[:40]} is not within {LOWEST} to {HIGHEST}")
    return value
