"""The local judge on real vLLM: models that know nothing of judging, so that verdicts mean nothing and are valid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import vlm_eval
from tests.helpers import REPO
from tests.judges.small_chat import save_random, smollm2
from vlm_eval import checkpoints, paths
from vlm_eval.judges.local import LocalJudge, LocalJudgeConfig
from vlm_eval.store import RunFolder

pytestmark = pytest.mark.engine
DEMO = Path(paths.demo("screen_annotation"))
SEES = paths.demo("models/bf16")  # a Qwen2-VL, trained for other things


def judge_locally(*judges: str) -> list[dict]:
    """What judge_locally.py prints, in an environment as vlm-eval makes it for a run."""
    wanted = LocalJudge(LocalJudgeConfig(name="local", model="any/model")).environment()
    environment = {**wanted, **os.environ, "PYTHONPATH": str(REPO), "VLLM_LOGGING_LEVEL": "ERROR"}
    script = Path(__file__).with_name("judge_locally.py")
    done = subprocess.run([sys.executable, script, DEMO, *judges], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A blind judge and one that sees, in one process."""
    blind = save_random(tmp_path_factory.mktemp("blind"))
    short = "judge.rationale_chars=60 judge.max_tokens=512"
    return judge_locally(f"judge.model={blind} judge.concurrency=6 {short}", f"judge.model={SEES} {short}")


def test_every_verdict_is_valid_in_both_orders(two):
    for judged in two:
        rows = [row for row in judged["rows"] if row["item_id"] != "long"]
        items = {row["item_id"] for row in rows}
        assert len(rows) == 20 and {row["status"] for row in rows} == {"ok"}
        assert {(row["item_id"], row["order"]) for row in rows} == {(i, order) for i in items for order in ("ab", "ba")}
        for row in rows:
            assert row["candidate_score"] in range(1, 11) and row["reference_score"] in range(1, 11)
            assert 1 <= len(row["rationale"]) <= 60 and row["judge"] == "local"
            assert row["cost_usd"] == 0 and row["tokens"] > 100


def test_a_prompt_that_vllm_refuses_is_a_row_with_its_reason(two):
    for judged in two:
        refused = [row for row in judged["rows"] if row["item_id"] == "long"]
        assert [row["status"] for row in refused] == ["error"] * 2
        assert all("8192" in row["error"] and "attempts" not in row["error"] for row in refused)


def test_only_the_model_with_a_vision_part_gets_the_screenshot(two):
    blind, sees = two
    assert {row["saw_image"] for row in blind["rows"]} == {False}
    assert {row["saw_image"] for row in sees["rows"]} == {True}


def test_requests_are_batched_as_far_as_concurrency_allows(two):
    blind, sees = two
    assert blind["most_under_way"] == 6
    assert sees["most_under_way"] > 6


def test_the_engine_is_gone_afterwards(two):
    for judged in two:
        assert judged["children"] == [] and judged["engine_threads"] == [] and judged["distributed"] is False


def test_provenance_says_which_weights(two):
    _, sees = two
    assert sees["facts"]["judge_checkpoint_sha256"] == checkpoints.fingerprint(SEES)
    assert sees["facts"]["judge_model"] == SEES


def test_a_whole_run_candidate_and_judge_in_one_process(tmp_path):
    run = vlm_eval(
        tmp_path,
        "quant=awq",
        "task=screen_annotation",
        "task.repeats=1",
        "task.sampling.max_tokens=16",
        "engine.latency_pass.items=0",
        "metrics=tech",
        "judge=local",
        f"judge.model={SEES}",
        "judge.rationale_chars=40",
        "tracking=none",
        folder="run",
    )
    assert run.result.returncode == 0, run.result.stderr
    folder = RunFolder(run.folder)
    assert len(folder.read("answers")) == 10
    rows = folder.read("judgements")
    assert len(rows) == 20 and all(r.status == "ok" and r.saw_image for r in rows)
    assert folder.summary()["judge/cost_usd"] == 0 and folder.summary()["judge/tokens"] > 20 * 100
    assert not {"torch", "vllm", "litellm"} & {name.partition(".")[0] for name in run.parent_modules}


@pytest.mark.long
def test_a_real_model_gives_reasons_and_scores():
    try:
        folder = smollm2()
    except OSError as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")
    [judged] = judge_locally(f"judge.model={folder} judge.prompt=pairwise.en.txt judge.concurrency=4")
    rows = [row for row in judged["rows"] if row["item_id"] != "long"]
    assert len(rows) == 20 and {row["status"] for row in rows} == {"ok"}
    letters = "".join(row["rationale"] for row in rows)
    assert sum(map(str.isalpha, letters)) > 0.6 * len(letters)  # words, not what random weights write
