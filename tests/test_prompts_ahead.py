"""What a thread makes ahead of who takes it."""

from __future__ import annotations

import threading
import time

import pytest

from vlm_eval.engines.vllm_prompts import ahead


def test_in_order_with_what_was_raised():
    made = [(n, future) for n, future in ahead(lambda n: 6 // n, [3, 0, 2], depth=2)]
    assert [n for n, _ in made] == [3, 0, 2] and made[0][1].result() == 2 and made[2][1].result() == 3
    with pytest.raises(ZeroDivisionError):
        made[1][1].result()
    assert list(ahead(str, [], depth=2)) == []


def test_it_is_no_further_ahead_than_it_may_be():
    made = []
    taking = ahead(lambda n: made.append(n), range(10), depth=3)
    assert made == []  # nobody has asked yet
    next(taking)
    time.sleep(0.1)
    assert made == [0, 1, 2]
    next(taking)
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]


def test_who_takes_no_more_waits_for_the_one_that_is_being_made_alone():
    going_on, made = threading.Event(), []

    def make(n):
        made.append(n)
        if n == 1:
            assert going_on.wait(10)

    taking = ahead(make, range(10), depth=5)
    next(taking)
    threading.Timer(0.2, going_on.set).start()
    taking.close()
    assert made == [0, 1]
