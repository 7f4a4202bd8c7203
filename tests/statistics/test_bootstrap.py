"""The percentile bootstrap: against plain loops, and how often it covers the truth: why it is not the headline."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm_eval.statistics import bootstrap
from vlm_eval.statistics.bootstrap import bootstrap_mean, bootstrap_ratio, named_bootstrap_ratio


def rows(count=12, seed=3):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, count)  # a resample has as many rows as its screenshots bring
    cluster = np.repeat(np.arange(count), sizes)
    x, y = rng.integers(1, 11, (2, len(cluster)))
    return [(f"shot {c}", float(a), float(b)) for c, a, b in zip(cluster, x, y)]


def test_it_resamples_screenshots_with_all_their_rows():
    groups: dict[str, list] = {}
    for name, x, y in rows():
        groups.setdefault(name, []).append((x, y))
    rng, ratios = np.random.default_rng(99), []
    for _ in range(10_000):
        drawn = [pair for name in rng.choice(list(groups), len(groups)) for pair in groups[name]]
        ratios.append(sum(x for x, _ in drawn) / sum(y for _, y in drawn))
    # Two different draws of 10,000: their percentiles agree within the resampling's own noise.
    assert bootstrap_ratio(rows()) == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.02)
    assert bootstrap_ratio(rows(), level=0.5) == pytest.approx(np.quantile(ratios, [0.25, 0.75]), abs=0.01)


def test_a_mean_is_a_ratio_over_ones():
    values = [(c, x) for c, x, _ in rows()]
    assert bootstrap_mean(values) == bootstrap_ratio([(c, x, 1.0) for c, x in values])


def test_the_same_rows_give_the_same_interval_in_any_order():
    assert bootstrap_ratio(rows()) == bootstrap_ratio(rows()[::-1])
    assert bootstrap_ratio(rows(), seed=1) != bootstrap_ratio(rows())


def test_what_is_held_at_once_does_not_change_what_comes_out_much(monkeypatch):
    whole = bootstrap_ratio(rows())
    monkeypatch.setattr(bootstrap, "CELLS", 1000)  # 83 resamples at a time
    assert bootstrap_ratio(rows()) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize("count, low, high", [(5, 0.81, 0.85), (10, 0.87, 0.91), (30, 0.92, 0.945)])
def test_with_few_screenshots_it_covers_less_than_it_says(count, low, high):
    """Within-screenshot correlation 0.6, 5 answers each: 83 % at 5 screenshots, 89 % at 10, 93.4 % at 30."""
    rng, names = np.random.default_rng(11), np.repeat(np.arange(count), 5).astype(str).tolist()
    covered = 0
    for study in range(3000):
        values = math.sqrt(0.6) * rng.normal(size=count).repeat(5) + math.sqrt(0.4) * rng.normal(size=5 * count)
        below, above = bootstrap_mean(zip(names, values.tolist()), resamples=500, seed=study)
        covered += below <= 0 <= above
    assert low <= covered / 3000 <= high


def test_no_interval():
    few = [(str(n % 4), 1.0 + n, 2.0) for n in range(20)]
    assert bootstrap_ratio(few) is None and bootstrap_ratio([]) is None
    assert bootstrap_ratio([(str(n), 1.0, 0.0 if n else 1.0) for n in range(6)]) is None
    assert named_bootstrap_ratio("r", few) == {}


def test_names_in_the_summary():
    low, high = bootstrap_ratio(rows())
    assert named_bootstrap_ratio("r", rows()) == {"r_bootstrap_ci_low": low, "r_bootstrap_ci_high": high}
    assert type(low) is float and type(high) is float
