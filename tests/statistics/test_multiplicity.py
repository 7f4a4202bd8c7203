"""Holm against statsmodels."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from vlm_eval.statistics.multiplicity import holm

P = st.floats(0, 1)


@settings(deadline=None)
@given(st.lists(P, min_size=1, max_size=12))
def test_it_is_statsmodels_holm(p_values):
    with mock.patch("gc.collect"):  # statsmodels does at every call, for a second
        theirs = multipletests(p_values, method="holm")[1].tolist()
    assert holm(p_values) == pytest.approx(theirs)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), P), max_size=8))
def test_tests_that_were_not_made_do_not_count(p_values):
    found = holm(p_values)
    assert [p is None for p in found] == [p is None for p in p_values]
    assert [p for p in found if p is not None] == holm([p for p in p_values if p is not None])


def test_by_hand():
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
