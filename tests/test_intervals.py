"""The mean's interval: against a computation that shares no line with ours, and against the truth it should cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm_eval.statistics.intervals import mean_interval, named_mean


def by_hand(clusters, values, level=0.95):
    """Cluster-robust variance as a sandwich (X'X)^-1 (sum X_c'u_c u_c'X_c) (X'X)^-1 with X a column of ones, times
    C / (C - 1), and t's quantile found by integrating its density."""
    names, index = np.unique(clusters, return_inverse=True)
    x = np.ones((len(values), 1))
    bread = np.linalg.inv(x.T @ x)
    mean = (bread @ x.T @ values)[0]
    member = np.eye(len(names))[index]
    sums = member.T @ (x[:, 0] * (values - mean))
    variance = (bread @ np.array([[sums @ sums]]) @ bread)[0, 0] * len(names) / (len(names) - 1)
    half = t_quantile((1 + level) / 2, len(names) - 1) * math.sqrt(variance)
    return mean, mean - half, mean + half


def t_quantile(p, df):
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    x = np.linspace(0, 60, 600_001)
    density = scale * (1 + x * x / df) ** (-(df + 1) / 2)
    area = 0.5 + np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2) * (x[1] - x[0])])
    return float(np.interp(p, area, x))


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("count", [5, 6, 30])
def test_it_is_the_cluster_robust_interval(count, level):
    rng = np.random.default_rng(count)
    sizes = rng.integers(1, 7, count)  # clusters of different sizes
    clusters = np.repeat([f"shot {c}" for c in range(count)], sizes)
    values = rng.normal(size=count).repeat(sizes) + rng.normal(size=sizes.sum())
    order = rng.permutation(len(values))  # the rows of a cluster need not stand together
    found = mean_interval(zip(clusters[order], values[order]), level)
    assert found[:3] == pytest.approx(by_hand(clusters, values, level), rel=1e-5)
    assert found[3] == len(values)


def test_without_repeats_it_is_students_interval():
    values = [0.2, 0.4, 0.9, 0.1, 0.6, 0.5, 0.7]
    half = t_quantile(0.975, 6) * np.std(values, ddof=1) / math.sqrt(7)
    assert mean_interval(zip("abcdefg", values))[:3] == pytest.approx(
        (np.mean(values), np.mean(values) - half, np.mean(values) + half), rel=1e-6
    )


def test_repeats_of_the_same_answers_make_it_no_narrower():
    values = [("abcdefg"[i], v) for i, v in enumerate([0.2, 0.4, 0.9, 0.1, 0.6, 0.5, 0.7])]
    assert mean_interval(values * 5)[:3] == pytest.approx(mean_interval(values)[:3])


def test_it_covers_the_truth_as_often_as_it_says():
    """500 studies of 30 screenshots with 5 answers each, within-screenshot correlation 0.6; the true mean is 0."""
    rng = np.random.default_rng(20240607)
    names = np.repeat(np.arange(30), 5).tolist()
    covered = naive = 0
    for _ in range(500):
        values = math.sqrt(0.6) * rng.normal(size=30).repeat(5) + math.sqrt(0.4) * rng.normal(size=150)
        _, low, high, _ = mean_interval(zip(names, values.tolist()))
        covered += low <= 0 <= high
        half = 1.976 * values.std(ddof=1) / math.sqrt(150)
        naive += abs(values.mean()) <= half
    assert 0.92 <= covered / 500 <= 0.98
    assert naive / 500 < 0.85  # what an interval that takes the answers for independent would do


@pytest.mark.parametrize("count", [1, 4])
def test_under_five_clusters_there_is_no_interval(count):
    values = [(f"shot {i % count}", float(i)) for i in range(40)]
    mean, low, high, n = mean_interval(values)
    assert (mean, n) == (19.5, 40) and math.isnan(low) and math.isnan(high)
    assert named_mean("x", values) == {"x": 19.5, "x_n": 40}


def test_names_in_the_summary():
    assert named_mean("x", [(str(i), 1.0) for i in range(5)]) == {"x": 1.0, "x_n": 5, "x_ci_low": 1.0, "x_ci_high": 1.0}
    assert named_mean("x", []) == {} and mean_interval(iter(())) is None
