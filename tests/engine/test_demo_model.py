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


def ask(checkpoint: Path) -> dict:
    script = Path(__file__).with_name("prompt_logprobs.py")
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, script, checkpoint], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def mean_difference(one: dict, other: dict) -> float:
    pairs = list(zip(one["logprobs"], other["logprobs"], strict=True))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


@pytest.fixture(scope="module")
def bf16():
    return ask(MODELS / "bf16")


def test_bf16_runs(bf16):
    assert bf16["quantization"] is None
    assert len(bf16["logprobs"]) > 100  # most of them the picture's


@pytest.mark.parametrize(("form", "quantization"), [("gptq8", "gptq"), ("gptq4", "gptq"), ("awq", "awq")])
def test_vllm_reads_what_was_packed(form, quantization, bf16, tmp_path):
    dequantize_checkpoint(MODELS / form, tmp_path / form)
    packed, written_out = ask(MODELS / form), ask(tmp_path / form)

    assert quantization in packed["quantization"]
    assert written_out["quantization"] is None
    assert mean_difference(packed, written_out) <= 0.01
    # and rounding does show in this prompt, else the line above would say nothing
    assert mean_difference(packed, bf16) > max(0.01, 2 * mean_difference(packed, written_out))
