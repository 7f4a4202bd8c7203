"""vLLM's look at a model's class, in a fork: what vLLM then reads from its cache, and what happens where it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from vlm_eval import paths
from vlm_eval.engines import vllm_inspect
from vlm_eval.engines.vllm_inspect import in_fork

pytestmark = pytest.mark.engine

LOOK = """
import sys
from vlm_eval.engines.vllm_inspect import inspect
from vllm.model_executor.models import registry

def by_vllm(function):
    raise AssertionError("vLLM started a process of its own")

inspect(sys.argv[1])
registry._run_in_subprocess = by_vllm
info = registry.ModelRegistry.models["Qwen2VLForConditionalGeneration"].inspect_model_cls()
assert info.supports_multimodal
assert "vllm.model_executor.models.qwen2_vl" not in sys.modules
"""


def look(folder, cache):
    return subprocess.run(
        [sys.executable, "-c", LOOK, str(folder)],
        env={**os.environ, "VLLM_CACHE_ROOT": str(cache), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_vllm_finds_it_in_its_cache(tmp_path):
    ended = look(paths.demo("models/bf16"), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert [file.suffix for file in (tmp_path / "modelinfos").iterdir()] == [".json"]


def test_what_fails_is_left_to_vllm(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": 7}))
    ended = look(tmp_path, tmp_path / "cache")
    assert "left to vLLM's own process" in ended.stderr and "vLLM started a process of its own" in ended.stderr


def test_what_a_fork_raises_is_no_result(monkeypatch):
    assert in_fork(lambda: {"pid": os.getpid()})["pid"] != os.getpid()
    with pytest.raises(RuntimeError, match="ended with 1"):
        in_fork(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="ended with -9"):
        in_fork(lambda: os.kill(os.getpid(), 9))
    monkeypatch.setattr(vllm_inspect, "LIMIT_S", 0.5)
    with pytest.raises(RuntimeError, match="ended with -9"):
        in_fork(lambda: time.sleep(60))
