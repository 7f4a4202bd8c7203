"""What a thread makes ahead of who takes it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlm_eval.engines import vllm_prompts
from vlm_eval.engines.vllm_prompts import ahead


def test_in_order_with_what_was_raised():
    made = [(n, future) for n, future in ahead(lambda n: 6 // n, [3, 0, 2], depth=2)]
    assert [n for n, _ in made] == [3, 0, 2] and made[0][1].result() == 2 and made[2][1].result() == 3
    with pytest.raises(ZeroDivisionError):
        made[1][1].result()
    assert list(ahead(str, [], depth=2)) == []


def test_several_threads_keep_the_order():
    def make(n):
        time.sleep(0.05 if n % 2 else 0)
        return n, threading.get_ident()

    made = [future.result() for _, future in ahead(make, range(12), depth=6, threads=3)]
    assert [n for n, _ in made] == list(range(12)) and len({thread for _, thread in made}) > 1


def test_a_picture_is_decoded_once_by_threads_that_come_together(monkeypatch, tmp_path):
    decoded = []
    monkeypatch.setattr(vllm_prompts.images, "load", lambda path: (time.sleep(0.1), decoded.append(path), path)[2])
    path = str(tmp_path / "a.png")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(vllm_prompts.picture, [path] * 4)) == {Path(path)}
    assert decoded == [Path(path)]


def test_it_is_no_further_ahead_than_it_may_be():
    made = []
    taking = ahead(lambda n: made.append(n), range(10), depth=3, threads=1)
    assert made == []  # nobody has asked yet
    next(taking)
    time.sleep(0.1)
    assert made == [0, 1, 2]
    next(taking)
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]


def test_who_takes_no_more_waits_for_the_one_that_is_being_made_alone():
    begun, going_on, made = threading.Event(), threading.Event(), []

    def make(n):
        made.append(n)
        if n == 1:
            begun.set()
            assert going_on.wait(10)

    taking = ahead(make, range(10), depth=5, threads=1)
    next(taking)
    assert begun.wait(10)
    threading.Timer(0.2, going_on.set).start()
    taking.close()
    assert made == [0, 1]
