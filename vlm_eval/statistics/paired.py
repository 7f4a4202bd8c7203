"""Two runs compared on what both have: the same screenshots, so that what is hard for both cancels out.

A mean is a ratio whose denominators are 1, so that one computation serves means and match ratios. Cluster-robust paired
standard error (Miller, arXiv 2411.00640, sections 4.2 and A), t with clusters - 1 degrees of freedom; for one row a
cluster it is the paired t test. Equivalence by two one-sided tests (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Hashable, Mapping, Optional

import numpy as np
from scipy.special import nctdtrinc, stdtr, stdtrit

from vlm_eval.statistics.intervals import MIN_CLUSTERS, why_no_interval
from vlm_eval.statistics.multiplicity import holm

LEVEL = 0.95
POWER = 0.8
MAX_SIGN_FLIP = 15  # clusters: 16,384 ways to exchange the runs

Rows = Mapping[Hashable, tuple[str, float, float]]  # (item_id, repeat) -> cluster, numerator, denominator


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline on `n` common rows of `clusters` screenshots.

    Under 5 clusters all tests and intervals are None; `ratio` (of ratios) is None unless all sums are above 0.
    """

    candidate: float
    baseline: float
    difference: float  # candidate minus baseline
    n: int
    clusters: int
    low: Optional[float] = None  # 95 % interval of the difference, not adjusted for further comparisons
    high: Optional[float] = None
    ratio: Optional[float] = None
    ratio_low: Optional[float] = None
    ratio_high: Optional[float] = None
    p: Optional[float] = None  # paired t, two-sided
    p_sign_flip: Optional[float] = None  # exact, the check up to 15 clusters; with 5 it cannot be below 0.0625
    p_holm: Optional[float] = None  # p adjusted for all candidates, set by compare_all
    detectable: Optional[float] = None  # the true difference that would be shown with 80 % power
    margin: Optional[float] = None
    p_equivalent: Optional[float] = None  # of the two one-sided tests against the margin

    @property
    def shown(self) -> Optional[str]:
        """ "higher" or "lower" (after Holm where that was done), "none", or None where no test could be made."""
        p = self.p if self.p_holm is None else self.p_holm
        if p is None:
            return None
        if p >= 1 - LEVEL:
            return "none"
        return "higher" if self.difference > 0 else "lower"

    @property
    def equivalent(self) -> Optional[bool]:
        """Whether the whole 95 % interval lies within the margin, by which the gate decides too: two one-sided tests at
        2.5 %. None without a margin or a test."""
        return None if self.p_equivalent is None else self.p_equivalent < (1 - LEVEL) / 2

    @property
    def lost_to_holm(self) -> bool:
        """Whether it would be shown if it were the only comparison."""
        return self.shown == "none" and self.p < 1 - LEVEL

    def sentence(self) -> str:
        """What may be said of it, and no more."""
        if self.shown is None:
            return f"difference {self.difference:+.3g}; {why_no_interval(self.clusters)}"
        if self.low == self.high == 0:
            return f"no difference in any of {self.clusters} screenshots"
        interval = f"{self.difference:+.3g} (95 % {self.low:+.3g} to {self.high:+.3g})"
        if self.equivalent:
            also = "" if self.shown == "none" else f", yet {self.shown}"
            return f"equivalent within {self.margin:g}{also}: {interval}"
        if self.lost_to_holm:
            return f"no difference shown among so many comparisons (p {self.p_holm:.2g} by Holm): {interval}"
        if self.shown == "none":
            return f"no difference shown: {interval}; one of {self.detectable:.2g} would have been with 80 % power"
        return f"{self.shown}: {interval}"


def common(runs: Mapping[str, Rows]) -> dict[str, dict[Hashable, tuple[str, float, float]]]:
    """The runs' rows, of each only those that all of them have: a run cannot win by failing where it is hard."""
    keys = set.intersection(*(set(rows) for rows in runs.values())) if runs else set()
    return {name: {key: row for key, row in rows.items() if key in keys} for name, rows in runs.items()}


def as_rows(values: Mapping[Hashable, tuple[str, float]]) -> dict[Hashable, tuple[str, float, float]]:
    """Rows of a plain mean from key -> (cluster, value)."""
    return {key: (cluster, value, 1.0) for key, (cluster, value) in values.items()}


def compare_all(
    runs: Mapping[str, Rows], baseline: str, margin: Optional[float] = None
) -> dict[str, Optional[Comparison]]:
    """Every other run against the baseline, one metric and one task, with Holm over them all."""
    found = {name: compare(rows, runs[baseline], margin) for name, rows in runs.items() if name != baseline}
    adjusted = holm([c.p if c else None for c in found.values()])
    return {name: c and dataclasses.replace(c, p_holm=p) for (name, c), p in zip(found.items(), adjusted, strict=True)}


def compare(candidate: Rows, baseline: Rows, margin: Optional[float] = None) -> Optional[Comparison]:
    """Candidate against baseline on common rows; None without any, or where a denominator sums to 0.

    `margin`, in units of the metric, is how large a difference would not matter.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"margin={margin}: a margin is above 0")
    keys = [key for key in candidate if key in baseline]
    sums: dict[str, np.ndarray] = {}
    for key in keys:
        (cluster, *ours), (other, *theirs) = candidate[key], baseline[key]
        if cluster != other:
            raise ValueError(f"{key}: of cluster {cluster!r} in one run, of {other!r} in the other")
        sums.setdefault(cluster, np.zeros(4))
        sums[cluster] += (*ours, *theirs)
    table = np.array([sums[cluster] for cluster in sorted(sums)]).reshape(-1, 4)
    total = table.sum(axis=0)
    if total[1] == 0 or total[3] == 0:
        return None
    ours, theirs = float(total[0] / total[1]), float(total[2] / total[3])
    plain = Comparison(ours, theirs, ours - theirs, len(keys), len(table), margin=margin)
    if (total > 0).all():
        plain = dataclasses.replace(plain, ratio=ours / theirs)
    if len(table) < MIN_CLUSTERS:
        return plain
    freedom = len(table) - 1
    parts = (table[:, 0] - ours * table[:, 1]) / total[1] - (table[:, 2] - theirs * table[:, 3]) / total[3]
    error = _error(parts, max(abs(ours), abs(theirs)))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    tests = {
        "low": plain.difference - half,
        "high": plain.difference + half,
        "p": min(1.0, 2 * _tail(abs(plain.difference), error, freedom)),
        "p_sign_flip": sign_flip(table) if len(table) <= MAX_SIGN_FLIP else None,
        "detectable": minimum_detectable_difference(error, freedom),
    }
    if plain.ratio is not None:  # on the log scale, where its interval cannot reach below 0
        shares = table / total
        error_log = _error(shares[:, 0] - shares[:, 1] - shares[:, 2] + shares[:, 3], 1.0)
        factor = math.exp(float(stdtrit(freedom, (1 + LEVEL) / 2)) * error_log)
        tests |= {"ratio_low": plain.ratio / factor, "ratio_high": plain.ratio * factor}
    if margin is not None:
        tests["p_equivalent"] = _tail(margin - abs(plain.difference), error, freedom)
    return dataclasses.replace(plain, **tests)


def sign_flip(table: np.ndarray) -> Optional[float]:
    """Exact two-sided p from exchanging the two runs in every set of clusters; for means, flipping the differences'
    signs (Fisher, The Design of Experiments, 1935). `table`: a row a cluster, sums of numerator and denominator of one
    run and of the other. None where exchanging could make a denominator 0."""
    if (table[:, [1, 3]] <= 0).any():
        return None
    clusters = len(table)
    # Exchanging a set or its complement gives the same size of difference: the last cluster stays.
    sets = (np.arange(2 ** (clusters - 1))[:, None] >> np.arange(clusters)) & 1
    moved = sets @ (table[:, 2:] - table[:, :2])
    ours, theirs = table[:, :2].sum(axis=0) + moved, table[:, 2:].sum(axis=0) - moved
    sizes = np.abs(ours[:, 0] / ours[:, 1] - theirs[:, 0] / theirs[:, 1])
    return float((sizes >= sizes[0] - 1e-12 * np.abs(table).max()).mean())  # set 0 is what was observed


def minimum_detectable_difference(error: float, freedom: int, power: float = POWER) -> float:
    """The true difference that the two-sided 5 % t test shows with this power, given its standard error."""
    return float(nctdtrinc(freedom, 1 - power, stdtrit(freedom, (1 + LEVEL) / 2))) * error


def _error(parts: np.ndarray, size: float) -> float:
    """Standard error from clusters' contributions; what is only rounding, as where two runs are the same, is 0."""
    error = math.sqrt(len(parts) / (len(parts) - 1) * float(parts @ parts))
    return error if error > 1e-12 * size else 0.0


def _tail(difference: float, error: float, freedom: int) -> float:
    """P(t > difference / error). Without any spread a difference of 0 says nothing and any other all."""
    if error == 0:
        return 0.5 if abs(difference) < 1e-12 else float(difference < 0)
    return float(stdtr(freedom, -difference / error))
