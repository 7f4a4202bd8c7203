"""Quantiles with intervals that assume nothing of the distribution: their ends are values of the sample itself.

The count of values below the true p-quantile is binomial (n, p), so that P(X_(l) <= quantile <= X_(u)) is at least
P(l <= Bin(n, p) <= u - 1): H. A. David and H. N. Nagaraja, Order Statistics (2003), section 7.1. How large a sample
must be for that: S. S. Wilks, "Determination of sample sizes for setting tolerance limits" (1941), 59 for 0.95 and 299
for 0.99.
"""

from __future__ import annotations

import math
from typing import Optional, Sequence

LEAST = {0.5: 6, 0.95: 60, 0.99: 300}  # values under which the sample says nothing certain of that quantile


def interval_ranks(n: int, p: float, level: float = 0.95) -> Optional[tuple[int, int]]:
    """Ranks, from 1 on, of the values that are the ends of the interval; None where n values cannot give one.

    Both tails are alike, except where the sample ends before one of them does: then its smallest, or largest, value is
    that end, and the other tail gets what is left."""
    from scipy.special import bdtr  # here, and not scipy.stats: config-time modules import this one

    below, above = p**n, (1 - p) ** n  # P(quantile > largest), P(quantile < smallest)
    allowed = 1 - level
    if below + above > allowed:
        return None
    cumulative = [float(bdtr(k, n, p)) for k in range(n)]  # P(Bin <= k)
    tail = allowed / 2
    left = allowed - below if below > tail else tail
    right = allowed - above if above > tail else tail
    low = max((k + 1 for k in range(n) if cumulative[k] <= left), default=0) or 1
    high = next((k + 1 for k in range(n) if 1 - cumulative[k] <= right), n)
    return low, high


def quantile(values: Sequence[float], p: float) -> float:
    """Between the two nearest values, as numpy and vLLM's own benchmarks have it."""
    ordered = sorted(values)
    place = p * (len(ordered) - 1)
    under = math.floor(place)
    over = min(under + 1, len(ordered) - 1)
    return ordered[under] + (place - under) * (ordered[over] - ordered[under])


def quantile_interval(
    values: Sequence[float], p: float, independent: Optional[int] = None, level: float = 0.95
) -> Optional[tuple[float, float, float]]:
    """(quantile, low, high); None where the sample is too small for it.

    `independent`: how many of the values count as independent, where they come in groups; the ends then lie where
    those of so many values would."""
    n = len(values) if independent is None else min(independent, len(values))
    if n < LEAST.get(p, 1) or (ranks := interval_ranks(n, p, level)) is None:
        return None
    ordered, each = sorted(values), len(values) / n
    low, high = math.floor((ranks[0] - 1) * each), math.ceil(ranks[1] * each) - 1
    return quantile(ordered, p), ordered[low], ordered[min(high, len(ordered) - 1)]


def named_quantiles(name: str, values: Sequence[float], independent: Optional[int] = None) -> dict[str, float]:
    """`name_p50`, `_p95` and `_p99`, each with its `_ci_low` and `_ci_high`, as far as there are values enough."""
    summary = {}
    for p in LEAST:
        if found := quantile_interval(values, p, independent):
            each = f"{name}_p{100 * p:.0f}"
            summary |= dict(zip((each, f"{each}_ci_low", f"{each}_ci_high"), found))
    return summary
