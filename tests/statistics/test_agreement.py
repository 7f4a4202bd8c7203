"""Krippendorff's alpha against his own example and the krippendorff package."""

from __future__ import annotations

import math

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval.rows import Judgement
from vlm_eval.statistics.agreement import krippendorff_alpha, ratings

# "Computing Krippendorff's Alpha-Reliability" (2011), C: four observers, twelve units, values missing.
OBSERVERS = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
UNITS = list(zip(*([None if v == "." else int(v) for v in row.split()] for row in OBSERVERS)))


@pytest.mark.parametrize("level, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(level, published):
    assert krippendorff_alpha(UNITS, level) == pytest.approx(published, abs=0.0005)


@settings(deadline=None)  # shared machines pause
@given(
    st.lists(st.tuples(*[st.one_of(st.none(), st.sampled_from([1.0, 2.0, 2.5, 5.0, 10.0]))] * 3), min_size=1),
    st.sampled_from(["nominal", "ordinal", "interval"]),
)
def test_it_is_the_packages(units, level):
    table = np.array([[np.nan if v is None else v for v in unit] for unit in units]).T
    found = krippendorff_alpha(units, level)
    values = [v for unit in units if sum(v is not None for v in unit) > 1 for v in unit if v is not None]
    if len(set(values)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(krippendorff.alpha(table, level_of_measurement=level), abs=1e-9)


def test_agreement_in_everything_and_in_nothing():
    assert krippendorff_alpha([(1, 1), (7, 7, 7), (10, 10)]) == 1
    assert krippendorff_alpha([(1, 10), (10, 1), (1, 10)]) < 0
    assert krippendorff_alpha([("yes", "yes"), ("no", "no"), ("yes", None)], "nominal") == 1
    rng = np.random.default_rng(0)
    assert abs(krippendorff_alpha(rng.integers(1, 11, (3000, 2)))) < 0.05


def test_where_it_is_not_defined():
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([(1, None), (math.nan, 2)]) is None  # nobody rated what another rated
    assert krippendorff_alpha([(5, 5), (5, 5)]) is None  # no variation: agreement by chance cannot be told
    with pytest.raises(ValueError, match="ratio"):
        krippendorff_alpha(UNITS, "ratio")


def test_what_the_raters_are():
    def row(item, judge, order, score, status="ok", judge_repeat=0):
        return Judgement(item, 0, judge, order, judge_repeat, True, score, 9.0, "", status)

    judgements = [
        *(row("a", "j", "ab", 4.0), row("a", "j", "ba", 8.0), row("a", "k", "ab", 5.0)),
        *(row("b", "j", "ab", 1.0), row("b", "k", "ab", None, "invalid"), row("b", "k", "ba", 3.0)),
    ]
    assert ratings(judgements) == [[6.0, 5.0], [1.0, 3.0]]
    assert ratings(judgements, between="order") == [[4.5, 8.0], [1.0, 3.0]]
    assert ratings(judgements, column="reference_score") == [[9.0, 9.0], [9.0, 9.0]]
