"""The mean's interval: against a computation that shares no line with ours, and against the truth it should cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import binomtest, t

from vlm_eval.statistics.intervals import mean_interval, named_mean, named_share, ratio_interval, why_no_interval


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


def test_it_is_inspect_ais_clustered_interval():
    """stderr(cluster=...) and ci(cluster=...) of inspect_ai 0.3.285 gave these numbers for these rows."""
    sizes = [2, 1, 2, 6, 5, 6, 1, 5, 1, 6, 3, 3]
    rows = """2.015 -0.263 -3.975 0.663 1.933 -1.139 -0.466 -0.826 -1.164 -1.084 -0.409 -1.557 -0.478 -0.996 0.662
        -0.525 -1.014 -0.55 1.241 2.33 1.215 -0.635 -2.177 -0.518 -0.797 -1.609 -3.62 -2.185 0.032 0.61 0.133 1.823
        0.576 -0.933 1.893 0.983 1.26 -1.313 0.087 -1.72 -0.397""".split()
    clusters = np.repeat([f"shot {c}" for c in range(12)], sizes)
    _, low, high, n = mean_interval(zip(clusters, map(float, rows), strict=True))
    assert (low, high, n) == (pytest.approx(-1.0166828811652895), pytest.approx(0.38770727140919187), 41)
    assert (high - low) / 2 / t.ppf(0.975, 11) == pytest.approx(0.3190367154760846)


def test_it_is_statsmodels_clustered_least_squares():
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(9), rng.integers(1, 8, 9))
    values = rng.normal(size=9)[clusters] + rng.normal(size=len(clusters))
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    mean, low, high, _ = mean_interval(zip(map(str, clusters), values))
    assert (mean, low, high) == pytest.approx((fit.params[0], *fit.conf_int()[0]))


@pytest.mark.parametrize("count", [10, 30, 79])
def test_it_covers_the_truth_as_often_as_it_says(count):
    """5,000 studies each of so many screenshots with 5 answers, within-screenshot correlation 0.6: a ratio of means,
    7 over 8, and the mean of its numerators."""
    rng = np.random.default_rng(20240607)
    names = np.repeat([f"shot {c}" for c in range(count)], 5).tolist()
    ratios = means = naive = 0
    for _ in range(5000):
        x, y = 7 + 1.5 * _correlated(rng, count), 8 + _correlated(rng, count)
        _, low, high, _ = ratio_interval(zip(names, x.tolist(), y.tolist()))
        ratios += low <= 7 / 8 <= high
        _, low, high, _ = mean_interval(zip(names, x.tolist()))
        means += low <= 7 <= high
        naive += abs(x.mean() - 7) <= 1.96 * x.std(ddof=1) / math.sqrt(len(x))
    assert 0.935 <= ratios / 5000 <= 0.96
    assert 0.935 <= means / 5000 <= 0.96
    assert naive / 5000 < 0.8  # what an interval that takes the answers for independent would do


def _correlated(rng, count):
    return math.sqrt(0.6) * rng.normal(size=count).repeat(5) + math.sqrt(0.4) * rng.normal(size=5 * count)


@pytest.mark.parametrize("count", [1, 4])
def test_under_five_clusters_there_is_no_interval(count):
    values = [(f"shot {i % count}", float(i)) for i in range(40)]
    mean, low, high, n = mean_interval(values)
    assert (mean, n) == (19.5, 40) and math.isnan(low) and math.isnan(high)
    assert named_mean("x", values) == {"x": 19.5, "x_n": 40}
    assert f"{count} screenshots" in why_no_interval(count) and why_no_interval(5) is None


def test_names_in_the_summary():
    assert named_mean("x", [(str(i), 1.0) for i in range(5)]) == {"x": 1.0, "x_n": 5, "x_ci_low": 1.0, "x_ci_high": 1.0}
    assert named_mean("x", []) == {} and mean_interval(iter(())) is None


def test_a_share_stays_between_0_and_1():
    nearly_all = [(str(n), float(n != 0)) for n in range(10)]
    mean, share = named_mean("x", nearly_all), named_share("x", nearly_all)
    assert mean["x_ci_high"] > 1 and share["x_ci_high"] == 1.0
    assert share["x_ci_low"] == mean["x_ci_low"] and share["x"] == mean["x"] and share["x_n"] == 10


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_of_no_failure_in_twelve_screenshots_it_does_not_follow_that_there_is_never_one(value):
    """Two answers a screenshot: the exact interval takes the twelve for trials, not the twenty-four."""
    found = named_share("x", [(str(n), value) for n in range(12) for _ in range(2)])
    low, high = binomtest(int(12 * value), 12).proportion_ci(0.95, "exact")
    assert (found["x_ci_low"], found["x_ci_high"]) == (pytest.approx(low), pytest.approx(high))
    assert named_share("x", [(str(n), value) for n in range(4)]) == {"x": value, "x_n": 4}  # as of any mean


def test_shares_that_are_all_alike_between_have_the_interval_of_a_mean():
    assert named_share("x", [(str(n), 0.5) for n in range(6)]) == named_mean("x", [(str(n), 0.5) for n in range(6)])
    assert named_share("x", []) == {}
