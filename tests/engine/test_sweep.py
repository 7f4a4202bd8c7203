"""A sweep on real vLLM, looked at from its files and from MLflow."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import vlm_eval
from vlm_eval import paths
from vlm_eval.engines.base import seed_of
from vlm_eval.store import RunFolder

pytestmark = pytest.mark.engine


def test_every_run_is_ok_and_every_answer_is_there(demo_sweep):
    assert demo_sweep.result.returncode == 0, demo_sweep.result.stderr
    assert "2 of 2 runs ok" in demo_sweep.result.stdout
    for run in demo_sweep.runs:
        assert run.status()["state"] == "ok"
        answers = run.read("answers")
        assert len({(a.item_id, a.repeat) for a in answers}) == len(answers) == 20
        assert all(a.text is not None and a.output_tokens > 0 and a.error is None for a in answers)
        assert len(run.read("latency")) == 3
        assert all(0 < t.prepare_s < t.ttft_s < t.latency_s for t in run.read("latency"))


def test_each_repeat_has_its_own_recorded_seed(demo_sweep):
    answers = demo_sweep.runs[0].read("answers")
    assert all(a.seed == seed_of(0, a.item_id, a.repeat) for a in answers)
    assert len({a.seed for a in answers}) == 20


def test_what_was_loaded_is_recorded(demo_sweep):
    gptq8, awq = (run.provenance()["engine"] for run in demo_sweep.runs)
    assert "16 linear layers gptq at 8 bits" in gptq8["found"]
    assert "16 linear layers awq at 4 bits" in awq["found"]
    assert gptq8["weights_gib"] > awq["weights_gib"] > 0
    for facts in (gptq8, awq):
        assert len(facts["chat_template_sha256"]) == len(facts["generation_config_sha256"]) == 64
        assert len(facts["checkpoint_sha256"]) == 64
    assert gptq8["checkpoint_sha256"] != awq["checkpoint_sha256"]


def test_resized_picture_and_visual_tokens_of_each_answer_are_recorded(demo_sweep):
    for answer in demo_sweep.runs[0].read("answers"):
        width, height = answer.resized
        assert (width // 28) * (height // 28) == answer.visual_tokens <= 312  # 336 x 728


def test_comparison_has_a_row_a_run_with_the_metrics(demo_sweep):
    with open(demo_sweep.folder / "comparison.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["quant"] for row in rows] == ["gptq8", "awq"]
    for row in rows:
        assert row["state"] == "ok"
        assert float(row["tech/output_tokens_per_s"]) > 0
        assert float(row["tech/weights_gib"]) > 0
        assert 0 <= float(row["rouge/rouge1_f_mean"]) < 1
        assert float(row["rouge/rouge1_f_mean_ci_low"]) <= float(row["rouge/rouge1_f_mean"])


def test_parent_imports_no_torch_and_no_vllm(demo_sweep):
    loaded = {name.partition(".")[0] for name in demo_sweep.parent_modules}
    assert "mlflow" in loaded  # the list is of the right process
    assert not loaded & {"torch", "torchmetrics", "vllm", "transformers", "pynvml"}


def test_the_same_run_again_gives_the_same_answers(demo_sweep, tmp_path):
    again = vlm_eval(
        tmp_path, "quant=awq", "task.repeats=2", "engine.latency_pass.items=0", "tracking=none", folder="run"
    )
    assert again.result.returncode == 0, again.result.stderr

    def texts(run):
        return {(a.item_id, a.repeat): a.text for a in run.read("answers")}

    first, second = texts(demo_sweep.runs[1]), texts(RunFolder(again.folder))
    assert first == second
    assert len(set(first.values())) > 1  # not one text for everything


def test_fewer_pixels_make_fewer_visual_tokens(tmp_path):
    run = vlm_eval(
        tmp_path,
        "task.repeats=1",
        "task.image.max_pixels=50000",
        "engine.latency_pass.items=0",
        "tracking=none",
        folder="run",
    )
    assert run.result.returncode == 0, run.result.stderr
    answers = RunFolder(run.folder).read("answers")
    assert all(0 < a.visual_tokens <= 50000 // 28**2 and a.resized is not None for a in answers)


def test_answers_are_on_the_disk_when_they_finish_and_a_dead_run_goes_on(tmp_path):
    """An engine that kills its process after the first finished answers: they are kept, and a resume adds the rest."""
    command = (
        "-m",
        "quant=bf16",
        "task.repeats=2",
        "engine.latency_pass.items=0",
        "tracking=none",
        "engine._target_=tests.engine.dying.DyingVllmEngine",
        "engine.retries=0",
    )
    died = vlm_eval(tmp_path, *command)
    assert died.result.returncode == 1
    [run] = died.runs
    status, kept = run.status(), run.read("answers")
    assert status["state"] == "failed" and "SIGKILL" in status["error"] and status["stage"] == "generate"
    assert 5 <= len(kept) < 20
    resumed = vlm_eval(tmp_path, *command)
    assert resumed.result.returncode == 0, resumed.result.stderr
    answers = run.read("answers")
    assert answers[: len(kept)] == kept
    assert len({(a.item_id, a.repeat) for a in answers}) == len(answers) == 20


def test_full_precision_under_a_gptq_name_is_caught_with_the_numbers(tmp_path):
    """The trap: a GPTQ folder that vLLM loads in full precision while it still calls it gptq."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in Path(paths.demo("models/gptq4")).iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_in_block_to_quantize"] = [["nothing"]]
    (folder / "config.json").write_text(json.dumps(config))
    run = vlm_eval(
        tmp_path,
        "model=local",
        f"model.path={folder}",
        "quant=gptq4",
        "engine.load_format=dummy",
        "tracking=none",
        folder="run",
    )
    assert run.result.returncode == 1
    error = json.loads((run.folder / "status.json").read_text())["error"]
    assert "wants gptq 4 bits" in error and "unquantised at 16 bits" in error and "GiB" in error


def test_smart_resize_is_that_of_transformers():
    script = """
import random
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as theirs
from vlm_eval.images import smart_resize as ours
random.seed(0)
for _ in range(2000):
    h, w = random.randint(28, 4000), random.randint(28, 4000)
    low = random.choice([3136, 200704]); high = random.choice([200704, 1003520, 12845056])
    if max(h, w) / min(h, w) <= 200:
        assert ours(h, w, 28, low, high) == theirs(h, w, 28, low, high), (h, w, low, high)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_prompt_that_vllm_refuses_is_a_row_with_its_reason(tmp_path):
    """One screenshot fills the context, another does not: on_bad_item=record keeps the first with vLLM's own words."""
    from PIL import Image

    (tmp_path / "data" / "images").mkdir(parents=True)
    Image.new("RGB", (1400, 1400)).save(tmp_path / "data" / "images" / "large.png")
    Image.new("RGB", (140, 140)).save(tmp_path / "data" / "images" / "small.png")
    (tmp_path / "data" / "items.csv").write_text("item_id,image\nlarge,large.png\nsmall,small.png\n")
    run = vlm_eval(
        tmp_path,
        f"task.data.root={tmp_path / 'data'}",
        "task.repeats=1",
        "task.on_bad_item=record",
        "task.sampling.max_tokens=16",
        "engine.max_model_len=330",
        "tracking=none",
        folder="run",
    )
    assert run.result.returncode == 0, run.result.stderr
    answers = {a.item_id: a for a in RunFolder(run.folder).read("answers")}
    assert answers["large"].text is None and "330" in answers["large"].error
    assert answers["small"].text is not None and answers["small"].error is None
    latencies = {x.item_id: x for x in RunFolder(run.folder).read("latency")}
    assert latencies["large"].latency_s is None and latencies["large"].error
    assert latencies["small"].latency_s > 0
