"""vLLM reads the demo's packed checkpoints as they were meant: it gives the same log-probabilities as for the
checkpoint that they stand for, written out in bf16."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.dequantize import dequantize_checkpoint

REPO = Path(__file__).resolve().parents[2]
MODELS = REPO / "vlm_eval" / "demo" / "models"

# One process a checkpoint, as in a run. INT4_W4A8=0: with it vLLM rounds the activations too, where the CPU has AMX.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_INT4_W4A8": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

pytestmark = pytest.mark.engine


PACKED = {"gptq8": "gptq", "gptq4": "gptq", "awq": "awq"}


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, dict]:
    """Of the shipped checkpoints by their names, and of the packed ones written out."""
    written_out = tmp_path_factory.mktemp("written_out")
    for form in PACKED:
        dequantize_checkpoint(MODELS / form, written_out / form)
    folders = {form: MODELS / form for form in ("bf16", *PACKED)}
    folders |= {f"{form} written out": written_out / form for form in PACKED}
    script = Path(__file__).with_name("prompt_logprobs.py")
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, script, *folders.values()], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(folders, map(json.loads, lines), strict=True))


def mean_difference(one: dict, other: dict) -> float:
    pairs = list(zip(one["logprobs"], other["logprobs"], strict=True))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def test_bf16_runs(said):
    assert said["bf16"]["quantization"] is None
    assert len(said["bf16"]["logprobs"]) > 100  # most of them the picture's


@pytest.mark.parametrize(("form", "quantization"), PACKED.items())
def test_vllm_reads_what_was_packed(form, quantization, said):
    packed, written_out = said[form], said[f"{form} written out"]
    assert quantization in packed["quantization"]
    assert written_out["quantization"] is None
    assert mean_difference(packed, written_out) <= 0.01
    # and rounding does show in this prompt, else the line above would say nothing
    assert mean_difference(packed, said["bf16"]) > max(0.01, 2 * mean_difference(packed, written_out))
