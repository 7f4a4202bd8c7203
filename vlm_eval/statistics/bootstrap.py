"""Percentile bootstrap over screenshots with all their rows: the check beside the t interval, not the headline.

With few clusters it is too narrow: simulated at a within-cluster correlation of 0.6 the 95 % interval covers 83 % at 5
clusters, 89 % at 10 and 93.4 % at 30, where the t interval covers 94 to 95 % throughout.
Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; clusters as in Miller, arXiv 2411.00640.
"""

from __future__ import annotations

from typing import Iterable, Optional

import numpy as np

from vlm_eval.statistics.intervals import MIN_CLUSTERS

RESAMPLES = 10_000
CELLS = 2_000_000  # numbers held at once: memory does not grow with the clusters


def bootstrap_mean(
    values: Iterable[tuple[str, float]], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Optional[tuple[float, float]]:
    """(low, high) for the mean of (cluster, value) pairs; None under 5 clusters."""
    return bootstrap_ratio(((cluster, value, 1.0) for cluster, value in values), level, resamples, seed)


def bootstrap_ratio(
    values: Iterable[tuple[str, float, float]], level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Optional[tuple[float, float]]:
    """(low, high) for the ratio of means of (cluster, numerator, denominator) triples.

    None under 5 clusters, or where a resample's denominators could sum to 0. The same seed and number of clusters draw
    the same clusters: runs over the same screenshots are resampled alike.
    """
    sums: dict[str, list[float]] = {}
    for cluster, x, y in values:
        entry = sums.setdefault(cluster, [0.0, 0.0])
        entry[0] += x
        entry[1] += y
    # In the order of their names: the interval must not depend on which row came first.
    table = np.array([sums[cluster] for cluster in sorted(sums)]).reshape(-1, 2)
    if len(table) < MIN_CLUSTERS or (table[:, 1] <= 0).any():
        return None
    x, y = _resampled(table, resamples, seed).T
    low, high = np.quantile(x / y, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(table: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column sums of so many resamples of the rows, (resamples, columns). Rows are drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(table)
    step = max(1, CELLS // count)
    parts = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        parts.append(weights.astype(float) @ table)
    return np.concatenate(parts)


def named_bootstrap_ratio(name: str, values: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """`name_bootstrap_ci_low` and `name_bootstrap_ci_high` for summary.json; {} where there is no interval."""
    found = bootstrap_ratio(values)
    return {} if found is None else {f"{name}_bootstrap_ci_low": found[0], f"{name}_bootstrap_ci_high": found[1]}
