"""experiment=memory: what there is of it on a CPU, and the arithmetic of the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_eval.engines import vllm_memory_table
from vlm_eval.store import RunFolder

from ..helpers import make_data


@pytest.mark.engine
def test_on_a_cpu_weights_and_kv_are_told_and_why_the_rest_is_not(vlm_eval_cli, tmp_path):
    data = make_data(tmp_path / "data", 1)
    ended = vlm_eval_cli(
        *("experiment=memory", "-m", "quant=awq", "task=vqa", f"task.data.root={data}", "tracking=none"),
        *("engine.memory_at=[1,256]", "engine.max_model_len=1024"),
    )
    assert ended.code == 0, ended.err
    [folder] = [f.parent for f in Path("multirun").glob("*/*/provenance.json")]
    run = RunFolder(folder)
    engine = run.provenance()["engine"]
    assert engine["memory"] == [
        {
            "input_tokens": length,
            "weights_gib": engine["weights_gib"],
            "kv_gib": round(engine["kv_bytes_per_token"] * length / 2**30, 4),
            "error": vllm_memory_table.NO_GPU,
        }
        for length in (1, 256)
    ]
    assert run.provenance()["not_scored"] == {"memory": vllm_memory_table.NO_GPU}
    assert not any(name.startswith("memory/") for name in run.summary())


def test_a_row_is_the_sum_of_its_parts(monkeypatch):
    parts = {"other_gib": 0.25, "activations_gib": 0.5}
    asked = []

    def activations(llm, length, weights_and_cache_gib):
        asked.append((length, weights_and_cache_gib))
        return parts

    monkeypatch.setattr(vllm_memory_table, "_activations", activations)
    facts = {"weights_gib": 15.5, "kv_bytes_per_token": 2**20}
    [row] = vllm_memory_table.measure(None, [2048], facts, 3.0)
    assert row == {"input_tokens": 2048, "weights_gib": 15.5, "kv_gib": 2.0, "total_gib": 18.25, **parts}
    assert asked == [(2048, 18.5)]


@pytest.mark.parametrize("lengths", ["[0]", "[1,4096]", "[-5,10]"])
def test_a_length_that_is_none_is_refused(vlm_eval_cli, lengths):
    ended = vlm_eval_cli("model=demo", f"engine.memory_at={lengths}", "tracking=none")
    assert ended.code == 2 and "under engine.max_model_len, 4096" in ended.err
