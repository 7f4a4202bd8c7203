"""Real vLLM in trouble: output that is not a number, a quantisation that this device has no kernel for, a death in the
middle of a batch; and that answers do not depend on where a run was cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.conftest import vlm_eval
from vlm_eval import paths, resolvers
from vlm_eval.store import RunFolder
from vlm_eval.tracking.run_facts import tags_of

from ..helpers import QUICK, left_in_shared_memory

pytestmark = pytest.mark.engine

LOCAL = ("model=local", *QUICK, "engine.latency_pass.items=1", "task.repeats=1")


def copy_of(quant: str, folder: Path) -> Path:
    shutil.copytree(paths.demo(f"models/{quant}"), folder)
    return folder


def test_nan_is_an_error_of_the_answer_and_no_text(tmp_path):
    from safetensors.torch import load_file, save_file

    weights = copy_of("bf16", tmp_path / "checkpoint") / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    run = vlm_eval(tmp_path, *LOCAL, f"model.path={weights.parent}", "task.sampling.max_tokens=2", folder="run")
    folder = RunFolder(run.folder)
    assert run.result.returncode == 1
    assert "the model's output is not a number: 4096 NaN among its logits" in folder.status()["error"]  # 2 x 2048
    for row in folder.read("answers") + folder.read("latency"):
        assert row.error == "the model's output is not a number: 4096 NaN among its logits"
    assert all(a.text is None for a in folder.read("answers"))


def test_a_quantisation_without_a_kernel_here_fails_with_its_reason(tmp_path):
    checkpoint = copy_of("bf16", tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bits": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    quant = ("quant=gptq4", "quant.name=bnb4", "quant.method=bitsandbytes")
    run = vlm_eval(tmp_path, *LOCAL, f"model.path={checkpoint}", *quant, folder="run")
    status = RunFolder(run.folder).status()
    assert run.result.returncode == 1
    assert (status["state"], status["stage"]) == ("failed", "start engine")
    assert "bitsandbytes" in status["error"], status


def test_a_died_engine_is_started_again_and_leaves_nothing(tmp_path):
    before = left_in_shared_memory()
    dying = ("quant=bf16", *QUICK, "task.repeats=2", "engine.latency_pass.items=0", "model.trust_remote_code=true")
    run = vlm_eval(tmp_path, *dying, "engine._target_=tests.engine.dying.DyingVllmEngine", folder="run")
    folder = RunFolder(run.folder)
    assert run.result.returncode == 0, run.result.stderr
    [restart] = folder.provenance()["engine_restarts"]
    assert restart["stage"] == "generate" and restart["error"].startswith("killed by SIGKILL")
    assert "started again, 1 of engine.retries=1" in run.result.stderr
    tags = tags_of(resolvers.load_config(folder.path), folder, None)
    assert tags["vlm_eval.engine_restarts"] == "1"
    # Code of the checkpoint may run: that is said wherever one looks.
    assert "model.trust_remote_code=true" in run.result.stderr and tags["trust_remote_code"] == "True"
    assert folder.provenance()["engine"]["trust_remote_code"] is True
    answers = folder.read("answers")
    assert len({(a.item_id, a.repeat) for a in answers}) == len(answers) == 20
    assert folder.summary()["tech/generation_batches"] == 2
    assert left_in_shared_memory() <= before


def test_a_cut_off_run_answers_as_a_whole_one(tmp_path):
    """Byte for byte, on a CPU, at the demo's temperature of 0.1: the rest is another batch than the whole."""
    command = ("quant=bf16", *QUICK, "task.repeats=4", "engine.latency_pass.items=0", "engine.retries=0")
    dying = "engine._target_=tests.engine.dying.DyingVllmEngine"
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "died").touch()
    (tmp_path / "cut").mkdir()
    whole = vlm_eval(tmp_path / "whole", *command, dying, folder="run")
    assert whole.result.returncode == 0, whole.result.stderr
    assert vlm_eval(tmp_path / "cut", *command, dying, folder="run").result.returncode == 1
    kept = len(RunFolder(tmp_path / "cut" / "run").read("answers"))
    assert 5 <= kept < 40
    assert vlm_eval(tmp_path / "cut", *command, dying, folder="run").result.returncode == 0

    def texts(run):
        return {(a.item_id, a.repeat): a.text for a in RunFolder(run / "run").read("answers")}

    a, b = texts(tmp_path / "whole"), texts(tmp_path / "cut")
    equal = sum(a[key] == b[key] for key in a)
    assert a.keys() == b.keys() and equal == len(a) == 40, f"{equal} of {len(a)} are byte-equal, {kept} were kept"
