"""Several comparisons at once: one of twenty true nulls is "significant" by luck alone."""

from __future__ import annotations

from typing import Optional, Sequence


def holm(p_values: Sequence[Optional[float]]) -> list[Optional[float]]:
    """Adjusted p values in the order given: compare each with 0.05, and all together err in at most 5 % of studies.

    A None is a test that was not made: it stays None and is not counted. Holm, Scand. J. Statist. 6 (1979) 65-70.
    """
    made = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[Optional[float]] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, position) in enumerate(made):
        largest = max(largest, min(1.0, p * (len(made) - rank)))
        adjusted[position] = largest
    return adjusted
