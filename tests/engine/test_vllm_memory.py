"""What a run would take of a GPU, estimated from its checkpoint and its requests, and as it was measured."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from vlm_eval import checkpoints, devices, paths
from vlm_eval.config import ModelConfig, QuantConfig
from vlm_eval.engines import vllm, vllm_check, vllm_memory
from vlm_eval.engines.base import Candidate, Request
from vlm_eval.engines.vllm import VllmEngineConfig
from vlm_eval.errors import BadInput
from vlm_eval.tasks.base import SamplingConfig
from vlm_eval.tasks.dataset import ImageConfig

DEMO = paths.demo("models/bf16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "cache"))


def candidate(path=DEMO, **model) -> Candidate:
    return Candidate(ModelConfig("demo", path=path, **model), QuantConfig("bf16"), ImageConfig(), 0)


def requests(number: int, max_tokens: int = 100) -> list[Request]:
    picture = paths.demo("screen_annotation/images")
    from pathlib import Path

    file = str(sorted(Path(picture).iterdir())[0])
    messages = [{"role": "user", "content": [{"type": "image", "path": file}, {"type": "text", "text": "Что это?"}]}]
    sampling = SamplingConfig(0.1, 1.0, max_tokens)
    return [Request(f"i{n}", 0, "c", file, messages, sampling, n) for n in range(number)]


def estimate(config=None, asked=(), at_once=64, fast=True, **more):
    config, whose = config or VllmEngineConfig(), candidate(**more)
    key = vllm_memory.key_of(config, whose, at_once, fast, len(asked))
    return vllm_memory.estimate(config, whose, asked, at_once, key)


def test_the_kv_cache_holds_all_that_is_answered_together():
    config = VllmEngineConfig(max_model_len=2048)
    per_token = checkpoints.kv_bytes_per_token(candidate().model, DEMO)
    few, many, more_than_at_once = (estimate(config, requests(n), at_once=16) for n in (1, 16, 40))
    assert few.kv_cache == 2048 * per_token / 2**30  # at least one whole context, as vLLM wants it
    assert many.kv_cache == more_than_at_once.kv_cache > few.kv_cache
    longer = estimate(config, requests(16, max_tokens=200), at_once=16)
    assert longer.kv_cache - many.kv_cache == pytest.approx(16 * 100 * per_token / 2**30)
    assert many.weights == pytest.approx(checkpoints.estimate_gib(*candidate_parts(), DEMO))


def test_repeats_of_an_item_count_each():
    config = VllmEngineConfig(max_model_len=2048)
    [one] = requests(1)
    again = [dataclasses.replace(one, repeat=k) for k in range(16)]
    assert estimate(config, again, at_once=16).kv_cache == estimate(config, requests(16), at_once=16).kv_cache


def test_a_picture_that_vllm_will_refuse_counts_as_a_whole_context(tmp_path):
    from PIL import Image

    Image.new("RGB", (10, 3000)).save(tmp_path / "thin.png")
    thin = [dataclasses.replace(r, image=str(tmp_path / "thin.png")) for r in requests(2)]
    config = VllmEngineConfig(max_model_len=2048)
    assert vllm_memory.tokens_at_once(config, candidate(), thin, 16, DEMO) == 2 * 2048


def candidate_parts():
    return candidate().model, candidate().quant


def test_an_engine_over_several_cards_has_them_whole(monkeypatch):
    monkeypatch.setattr(vllm, "find_device", lambda: devices.Device("cuda", "a card", 80.0))
    config = VllmEngineConfig(tensor_parallel_size=2, pipeline_parallel_size=2)
    assert vllm.VllmEngine(config, candidate()).need(requests(1)) == {"cards": 4, "gib": None}


@pytest.mark.parametrize(("asked", "said"), [({"tensor_parallel_size": 2}, "ask for 2 cards, 1 are here"),
                                             ({"pipeline_parallel_size": 0}, "at least 1")])  # fmt: skip
def test_more_cards_than_there_are_is_said_before_the_start(asked, said, monkeypatch):
    monkeypatch.setattr(vllm_check, "find_device", lambda: devices.Device("cuda", "a card", 80.0))
    monkeypatch.setattr(vllm_check, "cards", lambda: [devices.Card("0", 80.0)])
    with pytest.raises(BadInput, match=said):
        vllm_check.check(VllmEngineConfig(**asked), candidate(), None, [])


def test_a_machine_without_cards_does_not_judge_those_of_another(monkeypatch):
    monkeypatch.setattr(vllm_check, "version_of", lambda package: "0.24.0" if package == "vllm" else None)
    monkeypatch.setattr(vllm_check, "find_device", lambda: devices.Device("cpu", "a login node", 0.1))
    asked = VllmEngineConfig(tensor_parallel_size=2, pipeline_parallel_size=2)
    task = SimpleNamespace(
        config=SimpleNamespace(image=candidate().image, sampling=SimpleNamespace(max_tokens=8), on_bad_item="record")
    )
    assert vllm_check.check(asked, candidate(), task, [], "elsewhere") > 0.1
    with pytest.raises(BadInput, match="this vLLM needs a GPU"):
        vllm_check.check(asked, candidate(), task, [], "shared")


def test_no_pipeline_on_a_cpu():
    with pytest.raises(BadInput, match="vLLM has none on a CPU"):
        vllm_check.check(VllmEngineConfig(pipeline_parallel_size=2), candidate(), None, [])


def test_what_was_measured_is_taken_from_then_on_and_forgotten_when_it_did_not_do():
    config, at_once, asked = VllmEngineConfig(), 64, requests(3)
    assert estimate(config, asked).activations == vllm_memory.ACTIVATIONS_GIB
    key = vllm_memory.key_of(config, candidate(), at_once, True, 3)
    vllm_memory.remember(key, 1.0)
    vllm_memory.remember(key, 2.0)
    vllm_memory.remember(key, 1.5)
    assert estimate(config, asked).activations == pytest.approx(2.0 + vllm_memory.SPARE_GIB)
    vllm_memory.forget(key)
    assert estimate(config, asked).activations == vllm_memory.ACTIVATIONS_GIB


@pytest.mark.parametrize(
    "other",
    [
        {"fast": False},  # CUDA graphs: on an H100 three of four engines ran out of memory when this was the same
        {"answers": 50},
        {"config": VllmEngineConfig(max_model_len=8192)},
        {"config": VllmEngineConfig(dtype="float16")},
        {"config": VllmEngineConfig(memory_at=[1])},
    ],
)
def test_what_was_measured_holds_for_the_same_engine_alone(other):
    asked = {"config": VllmEngineConfig(), "candidate": candidate(), "at_once": 64, "fast": True, "answers": 3}
    assert vllm_memory.key_of(**asked) != vllm_memory.key_of(**{**asked, **other})
    assert vllm_memory.key_of(**asked) == vllm_memory.key_of(**asked)


def test_a_torn_file_of_measurements_is_none():
    file = paths.cache() / vllm_memory.MEASURED
    file.parent.mkdir(parents=True)
    file.write_text('{"a": 1')
    assert vllm_memory.measured("a") is None
    vllm_memory.remember("a", 2.0)
    assert vllm_memory.measured("a") == 2.0


def test_an_unknown_checkpoint_has_no_estimate(monkeypatch):
    monkeypatch.setattr(checkpoints, "on_disk", lambda *_: None)
    assert estimate(path=None, checkpoints={"bf16": "a/b"}) is None


def test_a_share_bounds_vllm_and_what_is_left_of_it_is_cache(monkeypatch):
    monkeypatch.setattr(vllm_memory, "find_device", lambda: devices.Device("cuda", "a card", 80.0))
    estimated = vllm_memory.Estimate(weights=10.0, kv_cache=2.0, activations=4.0)
    assert estimated.total == 16.0 + vllm_memory.CONTEXT_GIB
    exactly = vllm_memory.arguments(estimated, estimated.total)
    assert exactly == {"kv_cache_memory_bytes": 2 * 2**30, "gpu_memory_utilization": round(estimated.total / 80, 4)}
    assert vllm_memory.arguments(estimated, estimated.total + 3)["kv_cache_memory_bytes"] == 5 * 2**30
    # Less than it needs: the cache is not cut below one context; torch keeps the process within its share.
    assert vllm_memory.arguments(estimated, 10.0)["kv_cache_memory_bytes"] == 2 * 2**30


def test_extra_arguments_about_the_cache_take_the_whole_card():
    from vlm_eval.engines.vllm import VllmEngine

    config = VllmEngineConfig(extra={"num_gpu_blocks_override": 10})
    assert VllmEngine(config, candidate())._sets_memory_itself
    assert not VllmEngine(VllmEngineConfig(), candidate())._sets_memory_itself


def test_how_an_engine_starts_and_why():
    from vlm_eval.engines.vllm import LatencyPassConfig, VllmEngine

    def starts(answers=50, on_cpu=False, **config):
        engine = VllmEngine(VllmEngineConfig(**config), candidate())
        engine.answers = answers
        return engine._starts_fast(on_cpu)

    assert starts(start="full") == (False, "full, as asked") and starts(start="fast")[0]
    assert starts(on_cpu=True) == (True, "fast: on a CPU")
    fast, why = starts()
    assert not fast and "latency" in why
    untimed = {"latency_pass": LatencyPassConfig(items=0)}
    assert starts(**untimed)[0] and "50 answers" in starts(**untimed)[1]
    assert not starts(answers=5000, **untimed)[0]


def test_namespace_of_the_kv_cache():
    from vlm_eval.engines.vllm_loaded import kv_cache_gib

    cache = SimpleNamespace(num_gpu_blocks=1000, block_size=16)
    llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=SimpleNamespace(cache_config=cache)))
    assert kv_cache_gib(llm, 2**20) == 15.625
