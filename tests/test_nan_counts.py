"""NaN of each request: counted for the rows that a step had, and read when somebody asks."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import torch

from vlm_eval.engines.vllm_nan import Counts, _counts


def test_each_request_has_the_count_of_the_row_it_had_in_that_step():
    runner = SimpleNamespace(input_batch=SimpleNamespace(req_id_to_index={"0-a": 2, "1-b": 0, "2-c": 3}))
    logits = torch.zeros(3, 8)
    logits[2, :5] = float("nan")
    counts = _counts(runner, logits)
    runner.input_batch.req_id_to_index["0-a"] = 0  # the next step's
    logits.fill_(float("nan"))
    assert counts["0-a"] == 5 and counts["1-b"] == 0 and counts["2-c"] == 0  # the last had no logits yet
    assert "3-d" not in counts and len(counts) == 3


def test_a_step_without_logits_has_none():
    assert dict(Counts({"0-a": 0}, None)) == {"0-a": 0}


def test_another_process_gets_what_they_are():
    counts = Counts({"0-a": 0, "1-b": 1}, torch.tensor([0, 7]))
    there = pickle.loads(pickle.dumps(counts))
    assert type(there) is dict and there == {"0-a": 0, "1-b": 7}
