"""Means with intervals that respect clusters: answers about one screenshot are not independent.

Cluster-robust standard error of the mean with the t distribution on (clusters - 1) degrees of freedom,
as in E. Miller, "Adding Error Bars to Evals" (arXiv 2411.00640), with the small-sample factor C / (C - 1).
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Iterable, Optional

MIN_CLUSTERS = 5  # under it the interval would say more about luck than about the model


def mean_interval(
    values: Iterable[tuple[str, float]], level: float = 0.95
) -> Optional[tuple[float, float, float, int]]:
    """(mean, low, high, n) of (cluster, value) pairs; low and high are nan under 5 clusters; None without values."""
    groups: dict[str, list[float]] = defaultdict(list)
    for cluster, value in values:
        groups[cluster].append(value)
    n = sum(len(group) for group in groups.values())
    if n == 0:
        return None
    mean = sum(sum(group) for group in groups.values()) / n
    c = len(groups)
    if c < MIN_CLUSTERS:
        return mean, math.nan, math.nan, n
    half = _half_width((sum(v - mean for v in group) for group in groups.values()), c, n, level)
    return mean, mean - half, mean + half, n


def ratio_interval(
    values: Iterable[tuple[str, float, float]], level: float = 0.95
) -> Optional[tuple[float, float, float, int]]:
    """(ratio, low, high, n) of (cluster, numerator, denominator) pairs: a ratio of means, not a mean of ratios.

    Delta method on the clusters' sums, which keeps the pairing: Var R = C/(C-1) sum((X_c - R Y_c)^2) / (sum Y_c)^2.
    low and high are nan under 5 clusters; None without values or with denominators that sum to 0.
    """
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for cluster, x, y in values:
        groups[cluster].append((x, y))
    pairs = [pair for group in groups.values() for pair in group]
    total = sum(y for _, y in pairs)
    if total == 0:
        return None
    ratio, c = sum(x for x, _ in pairs) / total, len(groups)
    if c < MIN_CLUSTERS:
        return ratio, math.nan, math.nan, len(pairs)
    half = _half_width((sum(x - ratio * y for x, y in group) for group in groups.values()), c, total, level)
    return ratio, ratio - half, ratio + half, len(pairs)


def _half_width(residuals: Iterable[float], clusters: int, divisor: float, level: float) -> float:
    """Half an interval, from the clusters' summed residuals."""
    from scipy.special import stdtrit  # here, and not scipy.stats: config-time modules import this one

    error = math.sqrt(clusters / (clusters - 1) * sum(r * r for r in residuals)) / abs(divisor)
    return float(stdtrit(clusters - 1, (1 + level) / 2)) * error


def why_no_interval(clusters: int) -> Optional[str]:
    """What to say where the interval is missing; None when there are clusters enough."""
    if clusters >= MIN_CLUSTERS:
        return None
    return f"no interval: {clusters} screenshots, and under {MIN_CLUSTERS} it would say more about luck than the model"


def named_mean(name: str, values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """`name`, `name_ci_low`, `name_ci_high`, `name_n` for summary.json; without an interval where there is none."""
    return _named(name, mean_interval(values))


def named_share(name: str, values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """named_mean of values from 0 to 1: the interval ends there.

    Where all are 0, or all 1, t would claim certainty; then it is the exact binomial interval (Clopper and Pearson,
    Biometrika 26, 1934) with a screenshot as one trial."""
    pairs = [(cluster, float(value)) for cluster, value in values]
    result = mean_interval(pairs)
    if result is None or math.isnan(result[1]):
        return _named(name, result)
    mean, low, high, n = result
    if low == high and mean in (0.0, 1.0):
        missing = 1 - (0.05 / 2) ** (1 / len({cluster for cluster, _ in pairs}))
        low, high = (0.0, missing) if mean == 0 else (1 - missing, 1.0)
    return _named(name, (mean, max(low, 0.0), min(high, 1.0), n))


def named_ratio(name: str, values: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """The same names for a ratio_interval."""
    return _named(name, ratio_interval(values))


def _named(name: str, result: Optional[tuple[float, float, float, int]]) -> dict[str, float]:
    if result is None:
        return {}
    value, low, high, n = result
    summary = {name: value, f"{name}_n": n}
    if not math.isnan(low):
        summary |= {f"{name}_ci_low": low, f"{name}_ci_high": high}
    return summary
