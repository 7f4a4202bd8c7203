"""Quantiles and their distribution-free intervals: against scipy, and how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlm_eval.statistics.quantiles import LEAST, interval_ranks, named_quantiles, quantile, quantile_interval

shares = st.sampled_from(sorted(LEAST))


def coverage(n: int, p: float, low: int, high: int) -> float:
    """P(X_(low) <= quantile <= X_(high)) of a continuous distribution, from scipy's own binomial."""
    return stats.binom.cdf(high - 1, n, p) - stats.binom.cdf(low - 1, n, p)


@given(n=st.integers(1, 2000), p=shares, level=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=300)
def test_the_ends_cover_at_least_what_they_say_and_no_nearer_ones_do(n, p, level):
    ranks = interval_ranks(n, p, level)
    if ranks is None:
        assert coverage(n, p, 1, n) < level
        return
    low, high = ranks
    assert 1 <= low <= high <= n and coverage(n, p, low, high) >= level - 1e-12
    # Nearer by one at the end whose tail is its own half: more than the half would be left out there.
    if (1 - level) / 2 > p**n:
        assert 1 - stats.binom.cdf(high - 2, n, p) > (1 - level) / 2
    if (1 - level) / 2 > (1 - p) ** n and p**n <= (1 - level) / 2:
        assert stats.binom.cdf(low, n, p) > (1 - level) / 2


@given(p=shares, n=st.integers(6, 800), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_as_scipy_has_it_where_scipy_has_both_ends(p, n, seed):
    values = np.random.default_rng(seed).exponential(size=n)
    theirs = stats.quantile_test(values, q=1.0, p=p).confidence_interval(0.95)
    found = quantile_interval(values.tolist(), p)
    if n < LEAST[p]:
        assert found is None
        return
    assert found[0] == pytest.approx(np.quantile(values, p))
    assert found[1] <= found[0] <= found[2]
    if not np.isnan([theirs.low, theirs.high]).any():
        assert found[1:] == (theirs.low, theirs.high)


@pytest.mark.parametrize("p, least", LEAST.items())
def test_from_the_least_count_on_there_is_an_interval_of_95_percent(p, least):
    assert coverage(least, p, *interval_ranks(least, p)) >= 0.95
    assert all(interval_ranks(n, p) for n in range(least, 3 * least))
    # Wilks's 59 and 299, rounded up; for the median there is no smaller sample.
    exact = min(n for n in range(1, 400) if interval_ranks(n, p))
    assert exact == {0.5: 6, 0.95: 59, 0.99: 299}[p]


@pytest.mark.parametrize("n, p", [(6, 0.5), (100, 0.5), (60, 0.95), (100, 0.95), (300, 0.99), (1000, 0.99)])
def test_how_often_it_covers_the_truth(n, p):
    rng, draws = np.random.default_rng(7), 4000
    samples = np.sort(rng.lognormal(size=(draws, n)), axis=1)
    low, high = interval_ranks(n, p)
    truth = stats.lognorm.ppf(p, 1.0)
    covered = ((samples[:, low - 1] <= truth) & (truth <= samples[:, high - 1])).mean()
    assert covered == pytest.approx(coverage(n, p, low, high), abs=0.012) and covered > 0.94


def test_values_that_come_in_groups_count_as_so_many_as_there_are_groups():
    """100 answers of 40 gaps that are alike in an answer: an interval of 4000 values would cover a third as often."""
    rng, draws, answers, gaps = np.random.default_rng(5), 1500, 100, 40
    truth, alone, grouped = stats.lognorm.ppf(0.5, 1.0), 0, 0
    for _ in range(draws):
        values = np.repeat(rng.lognormal(size=answers), gaps).tolist()
        _, low, high = quantile_interval(values, 0.5)
        alone += low <= truth <= high
        _, low, high = quantile_interval(values, 0.5, independent=answers)
        grouped += low <= truth <= high
    assert grouped / draws > 0.94 and alone / draws < 0.4


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_numpys(values, p):
    assert quantile(values, p) == pytest.approx(float(np.quantile(values, p)), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("n, there", [(5, []), (8, ["p50"]), (60, ["p50", "p95"]), (300, ["p50", "p95", "p99"])])
def test_names_are_there_as_far_as_the_sample_reaches(n, there):
    summary = named_quantiles("x", [float(v) for v in range(n)])
    assert list(summary) == [f"x_{q}{end}" for q in there for end in ("", "_ci_low", "_ci_high")]
    for q in there:
        assert summary[f"x_{q}_ci_low"] <= summary[f"x_{q}"] <= summary[f"x_{q}_ci_high"]
    assert named_quantiles("x", [1.0] * 6000, independent=59).keys() == named_quantiles("x", [1.0] * 8).keys()
