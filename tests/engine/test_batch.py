"""How a batch goes through real vLLM: pictures are prepared ahead of it in a thread, and what is computed together does
not depend on how long that takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers import REPO


@pytest.fixture(scope="module")
def batches():
    script = Path(__file__).with_name("batches.py")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.engine.{script.stem}"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.engine
def test_a_prompt_that_is_too_long_with_its_picture_takes_no_other_of_that_picture_with_it(batches):
    """vLLM's own cache takes the picture for handed over, and its engine dies of the next one's."""
    [error] = batches["too long"]["errors"]
    assert "longer than the maximum model length of 2048" in error
    assert [text is None for text in batches["too long"]["texts"].values()] == [True, False, False]


@pytest.mark.engine
def test_pictures_are_prepared_while_the_engine_works(batches):
    slow = batches["slowly prepared"]
    assert len(slow["texts"]) == 20 and slow["in_the_main_thread"] == slow["threads_left"] == 0
    assert slow["prepared_by_then"][0] < 6 and slow["prepared_by_then"][-1] == 10  # once for both repeats of each


@pytest.mark.engine
def test_what_is_computed_together_does_not_depend_on_what_took_how_long(batches):
    fast, slow = batches["at once"], batches["slowly prepared"]
    assert fast["began_with"] == slow["began_with"] and max(fast["began_with"]) > 4
    assert fast["texts"] == slow["texts"] and not fast["errors"]


@pytest.mark.engine
def test_an_engine_is_warmed_up_once_and_what_was_timed_alone_has_done_so(batches):
    assert batches["warm-up"] == [[None], []] and batches["warm-up after it"] == []


@pytest.mark.engine
def test_on_a_card_those_the_batch_begins_with_go_before_it_together_once(batches):
    """Two requests come in before each step here. The batch shares nothing with them, as is seen below: its first
    prompt is computed whole. One that is too long is left for its answer to say so."""
    assert batches["warm-up on a card"] == [[[2, []], [2, [2, 2]]], []]
    assert batches["warm-up of one too long"] == [[1, []], [1, [2]]]


@pytest.mark.engine
def test_a_request_timed_alone_that_vllm_loses_is_no_endless_wait(batches):
    assert batches["lost"] == "vLLM lost 1 requests"


@pytest.mark.engine
def test_a_template_of_engine_extra_is_the_one(batches):
    assert batches["another template"] == "Только это."


@pytest.mark.engine
def test_with_a_prefix_cache_repeats_share_their_prompt_and_what_is_timed_alone_shares_nothing(batches):
    without, shared = batches["without a prefix cache"], batches["prefix cache"]
    assert set(without["cached_tokens"].values()) == {None}
    assert shared["texts"] == without["texts"]
    assert [key for key, tokens in shared["cached_tokens"].items() if not tokens] == [batches["first"]]
    assert all(tokens > 300 for key, tokens in shared["cached_tokens"].items() if key.endswith(" 1"))
    assert len(batches["alone before it"]) > 20 and not any(batches["alone before it"])
