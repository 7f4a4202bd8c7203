"""Paired comparison against scipy and statsmodels, by simulation, and where it must not say anything."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from vlm_eval.statistics.multiplicity import holm
from vlm_eval.statistics.paired import as_rows, common, compare, compare_all, minimum_detectable_difference


def one_each(values):
    """One row a screenshot, of a plain mean."""
    return as_rows({n: (f"shot {n}", float(v)) for n, v in enumerate(values)})


def clustered(rng, count=30, each=5, gap=0.0, noise=1.0):
    """(candidate, baseline): match ratios of 6 / 8 and a gap in the numerator; what a screenshot shares, both share."""
    shot = rng.normal(size=count).repeat(each)
    names = np.repeat(np.arange(count), each)

    def run(top):
        own = 0.5 * rng.normal(size=count).repeat(each)
        x = top + shot + own + noise * rng.normal(size=count * each)
        y = 8 + 0.5 * shot + 0.5 * noise * rng.normal(size=count * each)
        return {n: (f"shot {c:02}", float(a), float(b)) for n, (c, a, b) in enumerate(zip(names, x, y))}

    return run(6 + gap), run(6)


@pytest.fixture
def two():
    rng = np.random.default_rng(12)
    baseline = rng.normal(5, 1, 12)
    return baseline + rng.normal(0.2, 0.5, 12), baseline


def test_one_row_a_screenshot_is_the_paired_t_test(two):
    found, scipys = compare(*map(one_each, two)), stats.ttest_rel(*two)
    assert (found.p, found.n, found.clusters) == (pytest.approx(scipys.pvalue), 12, 12)
    assert (found.low, found.high) == pytest.approx(tuple(scipys.confidence_interval(0.95)))
    assert found.difference == pytest.approx(two[0].mean() - two[1].mean())
    assert found.ratio == pytest.approx(two[0].mean() / two[1].mean())


def test_the_check_is_scipys_exact_permutation_test(two):
    scipys = stats.permutation_test(
        two, lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert compare(*map(one_each, two)).p_sign_flip == pytest.approx(scipys.pvalue)


def test_of_ratios_it_exchanges_the_runs_by_screenshot():
    candidate, baseline = clustered(np.random.default_rng(4), count=7, gap=1.0)
    names = sorted({row[0] for row in baseline.values()})

    def difference(exchanged):
        sums = np.zeros(4)
        for key, (name, *theirs) in baseline.items():
            ours = candidate[key][1:]
            sums += (*theirs, *ours) if name in exchanged else (*ours, *theirs)
        return abs(sums[0] / sums[1] - sums[2] / sums[3])

    sizes = [difference({n for k, n in enumerate(names) if chosen >> k & 1}) for chosen in range(2**7)]
    expected = np.mean(np.array(sizes) >= difference(set()) - 1e-12)
    assert compare(candidate, baseline).p_sign_flip == pytest.approx(expected)


def test_the_check_ends_at_15_screenshots():
    rng = np.random.default_rng(1)
    assert compare(one_each(rng.normal(size=15)), one_each(rng.normal(size=15))).p_sign_flip is not None
    assert compare(one_each(rng.normal(size=16)), one_each(rng.normal(size=16))).p_sign_flip is None


def test_rows_of_one_screenshot_are_one_cluster():
    """statsmodels: the differences regressed on a constant, with clustered errors."""
    rng = np.random.default_rng(8)
    names = np.repeat(np.arange(9), rng.integers(1, 8, 9))
    ours, theirs = rng.normal(size=(2, 9))[:, names] + rng.normal(size=(2, len(names)))
    fit = sm.OLS(ours - theirs, np.ones(len(names))).fit(
        cov_type="cluster", cov_kwds={"groups": names}, use_t=True, df_resid=8
    )
    found = compare(*(as_rows({n: (str(c), v) for n, (c, v) in enumerate(zip(names, run))}) for run in (ours, theirs)))
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert found.p == pytest.approx(fit.pvalues[0])


@pytest.mark.parametrize("margin", [0.05, 0.3, 0.8])
def test_equivalence_is_statsmodels_two_one_sided_tests(two, margin):
    found = compare(*map(one_each, two), margin=margin)
    assert found.p_equivalent == pytest.approx(ttost_paired(*two, -margin, margin)[0])
    assert found.equivalent == (found.p_equivalent < 0.05)


@pytest.mark.parametrize("count", [5, 10, 30, 79])
def test_what_could_have_been_detected_is_statsmodels(count):
    effect = TTestPower().solve_power(nobs=count, alpha=0.05, power=0.8)  # in standard deviations
    assert minimum_detectable_difference(1 / math.sqrt(count), count - 1) == pytest.approx(effect, rel=1e-4)


def test_a_difference_as_large_as_stated_is_shown_in_80_percent_of_studies():
    rng, shown = np.random.default_rng(6), 0
    for _ in range(2000):
        differences = rng.normal(minimum_detectable_difference(1 / math.sqrt(10), 9), 1, 10)
        shown += compare(one_each(differences), one_each(np.zeros(10))).shown == "higher"
    assert 0.77 <= shown / 2000 <= 0.83


@pytest.mark.parametrize("count", [10, 30])
def test_intervals_cover_the_truth_and_the_tests_err_as_often_as_they_say(count):
    rng = np.random.default_rng(17)
    differences = ratios = wrong = flips = 0
    for _ in range(1500):
        candidate, baseline = clustered(rng, count, each=3, gap=1.0)
        found = compare(candidate, baseline)
        differences += found.low <= 1 / 8 <= found.high
        ratios += found.ratio_low <= 7 / 6 <= found.ratio_high
        same = compare(*clustered(rng, count, each=3))
        wrong += same.shown != "none"
        flips += same.p_sign_flip is not None and same.p_sign_flip < 0.05
    assert 0.93 <= differences / 1500 <= 0.965 and 0.93 <= ratios / 1500 <= 0.965
    assert 0.035 <= wrong / 1500 <= 0.07
    assert count > 15 or 0.03 <= flips / 1500 <= 0.065


def test_pairing_takes_out_what_is_hard_for_both():
    candidate, baseline = clustered(np.random.default_rng(2), gap=0.5, noise=0.3)
    shift = {key: (name, x + 3 * hash_of(name), y) for key, (name, x, y) in baseline.items()}
    harder = {key: (name, x + 3 * hash_of(name), y) for key, (name, x, y) in candidate.items()}
    plain, found = compare(candidate, baseline), compare(harder, shift)
    assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.2)


def hash_of(name):
    return math.sin(7 * int(name.split()[1]))


def test_only_common_rows_count():
    rows = one_each([5, 6, 7, 5, 6, 7, 8])
    survivor = {key: row for key, row in one_each([4, 5, 6, 4, 5, 6, 9]).items() if key != 6}
    found = compare(survivor, rows)
    assert (found.n, found.difference, found.baseline) == (6, -1, 6)
    assert common({"a": survivor, "b": rows}) == {"a": survivor, "b": {k: v for k, v in rows.items() if k != 6}}
    assert common({}) == {} and compare({}, rows) is None and compare(rows, {99: ("z", 1.0, 1.0)}) is None


def test_the_same_key_in_another_screenshot_is_refused():
    with pytest.raises(ValueError, match="'shot 0' in one run, of 'x'"):
        compare(one_each([1]), {0: ("x", 1.0, 1.0)})


def test_all_against_one_with_holm():
    rng = np.random.default_rng(3)
    shot = rng.normal(size=20)
    runs = {name: one_each(5 + shot + gap + 0.5 * rng.normal(size=20)) for name, gap in zip("abcd", [0, 0.2, 0.3, 2])}
    found = compare_all({**runs, "empty": {}}, "a", margin=0.5)
    assert list(found) == ["b", "c", "d", "empty"] and found["empty"] is None
    alone = [compare(runs[name], runs["a"]).p for name in "bcd"]
    assert [found[name].p for name in "bcd"] == alone
    assert [found[name].p_holm for name in "bcd"] == holm(alone)


def test_holm_decides_what_is_shown():
    base = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    slight = base + [0.25, 0.75, -0.25, 0.75, 0.5, -0.25, 0.75, 0.5]
    runs = {"base": one_each(base), "slight": one_each(slight)}
    alone = compare_all(runs, "base")["slight"]
    assert alone.shown == "higher" and alone.sentence().startswith("higher: +0.375 (95 % +0.")
    many = {**runs, **{f"r{n}": one_each(base + np.roll([0.4, -0.4] * 4, n)) for n in range(5)}}
    among = compare_all(many, "base")["slight"]
    assert among.p == alone.p and among.p_holm > 0.05
    # Alone it would be shown, so what size would have been is no news: the number of comparisons is the reason.
    assert among.shown == "none" and among.lost_to_holm and not alone.lost_to_holm
    assert among.sentence().startswith(
        f"no difference shown among so many comparisons (p {among.p_holm:.2g} by Holm): "
    )
    assert "+0.375 (95 % +0." in among.sentence() and "would have been" not in among.sentence()


def test_equivalent_only_inside_the_stated_margin(two):
    base = np.linspace(4, 8, 12)
    near = base + 0.01 * np.tile([1, -1], 6)
    assert compare(one_each(near), one_each(base)).equivalent is None
    assert compare(one_each(near), one_each(base), margin=0.05).sentence().startswith("equivalent within 0.05: ")
    assert compare(one_each(near), one_each(base), margin=1e-4).equivalent is False
    # By the whole 95 % interval, as the gate: a margin just inside its end is not enough, one just outside is.
    found = compare(one_each(near), one_each(base))
    assert compare(one_each(near), one_each(base), margin=found.high * 1.001).equivalent is True
    assert compare(one_each(near), one_each(base), margin=found.high * 0.999).equivalent is False
    both = compare(one_each(near + 0.02), one_each(base), margin=0.05)  # different, and by too little to matter
    assert both.sentence().startswith("equivalent within 0.05, yet higher: ")
    with pytest.raises(ValueError, match="margin=0"):
        compare(one_each(near), one_each(base), margin=0)


@pytest.mark.parametrize("count", [1, 4])
def test_under_five_screenshots_nothing_is_tested_and_it_says_why(count):
    found = compare(one_each([2.0] * count), one_each([1.0] * count), margin=0.1)
    assert (found.difference, found.ratio) == (1, 2)
    assert [found.low, found.p, found.p_sign_flip, found.detectable, found.p_equivalent, found.shown] == [None] * 6
    assert f"{count} screenshots" in found.sentence()
    assert compare_all({"a": one_each([2.0] * count), "b": one_each([1.0] * count)}, "b")["a"].p_holm is None


def test_the_same_answers_twice_are_no_difference():
    candidate, _ = clustered(np.random.default_rng(5))
    found = compare(candidate, candidate, margin=0.01)
    assert (found.difference, found.low, found.high, found.p, found.ratio) == (0, 0, 0, 1, 1)
    assert found.shown == "none" and found.equivalent is True  # with no spread at all
    assert found.sentence() == "no difference in any of 30 screenshots"
    shifted = compare(one_each([2, 3, 4, 5, 6]), one_each([1, 2, 3, 4, 5]), margin=0.5)
    assert (shifted.p, shifted.shown, shifted.equivalent) == (0, "higher", False)
    assert shifted.p_sign_flip == 2 / 2**5  # what five screenshots can say at most


def test_no_ratio_of_what_is_not_above_zero():
    found = compare(one_each([-1, 2, -3, 1, 0, -2]), one_each([1, 2, 3, 1, 1, 2]))
    assert found.ratio is None and found.ratio_low is None and found.p is not None
    assert compare({0: ("a", 1.0, 0.0)}, {0: ("a", 1.0, 1.0)}) is None


@settings(deadline=None)  # shared machines pause
@given(
    st.lists(st.tuples(*[st.floats(1, 10)] * 4), min_size=5, max_size=17),
    st.integers(1, 3),
)
def test_whatever_the_scores_the_numbers_fit_together(scores, each):
    ours = {n: (f"{n // each}", a, b) for n, (a, b, _, _) in enumerate(scores)}
    theirs = {n: (f"{n // each}", c, d) for n, (_, _, c, d) in enumerate(scores)}
    found, back = compare(ours, theirs, margin=0.1), compare(theirs, ours, margin=0.1)
    assert found.difference == pytest.approx(-back.difference, abs=1e-12)
    assert found.ratio == pytest.approx(1 / back.ratio)
    if found.clusters < 5:
        return
    assert found.low <= found.difference <= found.high and found.ratio_low <= found.ratio <= found.ratio_high
    assert 0 <= found.p <= 1 and 0 <= found.p_equivalent <= 1
    assert found.p == pytest.approx(back.p, abs=1e-6)
    assert found.p_equivalent == pytest.approx(back.p_equivalent, abs=1e-6)
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or found.p == pytest.approx(0.05, abs=1e-6)
    if found.clusters <= 15:
        assert 2 ** (1 - found.clusters) <= found.p_sign_flip <= 1
        assert found.p_sign_flip == pytest.approx(back.p_sign_flip)
