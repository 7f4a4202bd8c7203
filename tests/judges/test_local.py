"""The local judge up to the start of its engine, and the thread that owns it; vLLM itself is in tests/engine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from vlm_eval import config, launch
from vlm_eval.devices import find_device
from vlm_eval.errors import BadInput
from vlm_eval.judges import local, providers
from vlm_eval.judges.llm import parse

from ..helpers import REPO, composed, make_checkpoint
from .server import judge_for, judged, request, verdict

TEXT_ONLY = {"model_type": "qwen2", "vision_start_token_id": 5, "hidden_size": 64}


def judge_of(model, *overrides):
    return config.build(composed("judge=local", f"judge.model={model}", "metrics=tech", *overrides).judge)


# -------------------------------------------------------------------------------------------------- before the engine


def test_a_folder_that_is_no_checkpoint_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=f"^judge.model: {tmp_path}/nowhere: no such checkpoint folder$"):
        judge_of(tmp_path / "nowhere").check()
    with pytest.raises(BadInput, match=r"judge.model: .*config.json: missing"):
        judge_of(tmp_path).check()


def test_a_name_on_the_hub_is_not_fetched_before_the_run(monkeypatch):
    import huggingface_hub

    def fetched(*_, **__):
        raise AssertionError("the check fetched something")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    judge = judge_of("nobody/no-such-model-here")
    judge.check()
    assert judge.cost(50) == (100, 0.0)


@pytest.mark.parametrize(
    ("more", "sees"),
    [
        ({}, False),
        ({"vision_config": {"depth": 2}}, True),
        ({"vision_config": None}, False),
        ({"img_processor": {"name": "clip"}}, True),
        ({"thinker_config": {"vision_config": {"depth": 2}}}, True),
    ],
)
def test_the_checkpoint_tells_whether_it_sees(tmp_path, more, sees):
    folder = make_checkpoint(tmp_path / "model", **TEXT_ONLY, **more)
    assert judge_of(folder).transport.sees_images() is sees
    required = judge_of(folder, "judge.image=required")
    if sees:
        required.check()
    else:
        with pytest.raises(BadInput, match="judge.image=required: .* sees no images"):
            required.check()


def test_a_model_too_large_for_this_machine_is_bad_input(tmp_path):
    folder = make_checkpoint(tmp_path / "model", **TEXT_ONLY)
    with open(folder / "model.safetensors", "wb") as weights:
        weights.truncate(int(find_device().total_gib * 2**30))  # a hole, no bytes on the disk
    with pytest.raises(BadInput, match="judge.model=.*: needs about .* GiB .*judge.max_model_len"):
        judge_of(folder).check()


def test_what_a_local_judge_does_not_have_is_refused():
    with pytest.raises(BadInput, match="judge.cache: a local judge keeps no replies"):
        judge_of("a/b", "judge.cache=replies.sqlite")
    with pytest.raises(BadInput, match="judge.api_base, api_key_env"):
        judge_of("a/b", "+judge.api_base=http://127.0.0.1:1/v1")
    with pytest.raises(BadInput, match="judge.max_model_length: no such key; did you mean max_model_len"):
        judge_of("a/b", "+judge.max_model_length=1")
    with pytest.raises(BadInput, match="judge.extra.default_mm_loras: requests are made without adapters"):
        judge_of("a/b", "+judge.extra.default_mm_loras={image: folder}")
    with pytest.raises(BadInput, match="judge.model: no value given"):
        composed("judge=local", "metrics=tech")


def test_the_schema_that_guides_bounds_the_rationale_and_is_the_one_that_checks(tmp_path):
    schema = judge_of("a/b", "judge.rationale_chars=5").schema()
    properties = schema.model_json_schema()["properties"]
    assert list(properties) == ["rationale", "score_a", "score_b"]
    assert (properties["rationale"]["minLength"], properties["rationale"]["maxLength"]) == (1, 5)
    assert schema.model_json_schema()["additionalProperties"] is False
    assert parse(json.dumps({"rationale": "верно", "score_a": 9, "score_b": 1}), schema).score_a == 9
    for wrong in ("", "неверно"):
        with pytest.raises(ValueError, match="rationale"):
            parse(json.dumps({"rationale": wrong, "score_a": 9, "score_b": 1}), schema)


def test_it_may_sit_on_a_panel():
    judge = config.build(
        composed("judge=panel", "+judge@judge.members.mine=local", "judge.members.mine.model=a/b", "metrics=tech").judge
    )
    assert "local" in judge.names
    assert judge.environment()["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_its_run_starts_in_the_environment_that_vllm_reads_at_import(monkeypatch):
    """Whatever the engine; what the engine wants too is the engine's word, and a person's own setting wins."""
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.delenv(name, raising=False)
    judge = ("judge=local", "judge.model=a/b", "judge.cpu_kv_cache_gib=3", "metrics=tech")
    replayed = launch.environment(composed("engine=replay", "engine.path=x.csv", *judge))
    generated = launch.environment(composed("engine=vllm", "engine.cpu_kv_cache_gib=2", *judge))
    assert replayed["VLLM_ENABLE_V1_MULTIPROCESSING"] == generated["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    if find_device().kind == "cpu":
        assert (replayed["OMP_NUM_THREADS"], replayed["VLLM_CPU_KVCACHE_SPACE"]) == ("1", "3")
        assert generated["VLLM_CPU_KVCACHE_SPACE"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launch.environment(composed("engine=vllm", *judge))["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    nothing = launch.environment(composed("engine=replay", "engine.path=x.csv", "judge=none", "metrics=tech"))
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in nothing


def test_nothing_heavy_is_imported_before_the_run(tmp_path):
    folder = make_checkpoint(tmp_path / "model", **TEXT_ONLY)
    code = (
        "import sys\nfrom tests.helpers import composed\nfrom vlm_eval import config\n"
        f"judge = config.build(composed('judge=local', 'judge.model={folder}', 'metrics=tech').judge)\n"
        "judge.check(); judge.cost(10); judge.environment()\n"
        "assert not {'litellm', 'pydantic', 'torch', 'vllm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


# -------------------------------------------------------------------------------- the engine's thread: its faults

FORM = {"max_tokens": 8}


class Engine:
    """As much of a vllm.LLM as the thread uses; `finish(ids) -> outputs` is one step."""

    def __init__(self, finish):
        self.llm_engine, self.engine_core = self, self
        self.finish, self.running, self.aborted, self.down = finish, [], [], False

    def add_request(self, number, prompt, params):
        self.running.append(number)

    def has_unfinished_requests(self):
        return bool(self.running)

    def step(self):
        time.sleep(0.01)
        return self.finish(self.running)

    def abort_request(self, ids):
        self.aborted += ids

    def shutdown(self):
        self.down = True


@pytest.fixture(autouse=True)
def no_vllm(monkeypatch):
    """The thread's own doings need none of it."""
    monkeypatch.setattr(local, "Prompts", lambda llm, **template: SimpleNamespace(make=lambda messages: messages))
    monkeypatch.setattr(local, "_sampling", lambda parameters: parameters)
    monkeypatch.setattr(local.vllm, "refusals", lambda: (ValueError,))


def ended(key, reason="stop"):
    said = SimpleNamespace(text="да", finish_reason=reason, token_ids=[1, 2])
    return SimpleNamespace(request_id=key, finished=True, outputs=[said], prompt_token_ids=[1, 2, 3])


def test_a_reply_with_its_tokens_then_the_end():
    engine = Engine(lambda running: [ended(running[-1])])
    thread = local.EngineThread(lambda: engine)
    assert thread.complete([], FORM, 5) == providers.Said("да", "stop", 3, 2)
    thread.stop()
    assert engine.down and not thread._thread.is_alive()
    with pytest.raises(RuntimeError, match="has stopped"):
        thread.complete([], FORM, 5)


def test_an_engine_that_does_not_start_says_why():
    def load():
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        local.EngineThread(load)


def test_an_engine_that_dies_leaves_nobody_waiting():
    both_in = threading.Barrier(2)

    def die(running):
        if len(running) < 2:
            return []
        raise RuntimeError("the kernel is gone")

    engine = Engine(die)
    thread, said = local.EngineThread(lambda: engine), []

    def ask():
        both_in.wait()
        try:
            thread.complete([], FORM, 30)
        except RuntimeError as error:
            said.append(str(error))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    [asker.start() for asker in askers], [asker.join(10) for asker in askers]
    assert said == ["the kernel is gone"] * 2 and engine.down
    with pytest.raises(RuntimeError, match="has stopped"):
        thread.complete([], FORM, 30)
    thread.stop()


def test_a_request_that_vllm_loses_is_no_endless_wait():
    engine = Engine(lambda running: running.clear() or [])
    thread = local.EngineThread(lambda: engine)
    with pytest.raises(RuntimeError, match="vLLM lost 1 requests"):
        thread.complete([], FORM, 30)
    thread.stop()


def test_one_that_takes_too_long_is_given_up_and_taken_from_the_engine():
    engine = Engine(lambda running: [])
    thread = local.EngineThread(lambda: engine)
    with pytest.raises(TimeoutError):
        thread.complete([], FORM, 0.1)
    deadline = time.monotonic() + 10
    while not engine.aborted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.aborted == ["0"]
    thread.stop()


def test_an_aborted_request_is_no_reply():
    thread = local.EngineThread(lambda: Engine(lambda running: [ended(running[-1], "abort")]))
    with pytest.raises(RuntimeError, match="vLLM ended it with abort"):
        thread.complete([], FORM, 5)
    thread.stop()


def test_stopping_ends_what_is_under_way():
    thread, said = local.EngineThread(lambda: Engine(lambda running: [])), []

    def ask():
        try:
            thread.complete([], FORM, 30)
        except RuntimeError as error:
            said.append(str(error))

    asker = threading.Thread(target=ask)
    asker.start()
    while not thread._running:
        time.sleep(0.01)
    thread.stop()
    asker.join(10)
    assert said == ["the judge's engine was stopped"]


# -------------------------------------------------------------------------------- a provider in this process, as such


@pytest.mark.parametrize(
    ("error", "asked", "said"),
    [
        (ValueError("too long"), 1, "BadRequestError: too long"),
        (RuntimeError("no memory"), 3, "RuntimeError: no memory (after 3 attempts)"),
        (TimeoutError(), 3, "no reply in 120 s"),
    ],
)
def test_what_a_provider_raises_becomes_a_row(server, image, error, asked, said):
    calls = []

    def complete(messages, parameters, seconds):
        calls.append(parameters)
        raise error

    providers.register("tests", complete)
    judge = judge_for(server, model="tests/any", api_base=None, api_key_env=None, order="random", cache=None)
    judge.check()
    [row] = judged(judge, request(image))
    assert (row.status, len(calls)) == ("error", asked) and said in row.error
    assert "Traceback" not in row.error and not server.bodies


def test_a_provider_gets_the_schema_and_gives_tokens(server, image):
    asked = []

    def complete(messages, parameters, seconds):
        asked.append((parameters, seconds))
        return providers.Said(verdict(9, 3), "stop", 100, 20)

    providers.register("tests", complete)
    prices = {"usd_per_million_in": 0.0, "usd_per_million_out": 0.0}
    judge = judge_for(server, model="tests/any", api_base=None, order="random", cache=None, **prices)
    [row] = judged(judge, request(image))
    assert (row.status, row.tokens, row.cost_usd) == ("ok", 120, 0.0)
    [(parameters, seconds)] = asked
    assert "score_a" in parameters["response_format"]["json_schema"]["schema"]["properties"]
    assert (parameters["max_tokens"], parameters["temperature"], seconds) == (1024, 0.0, 120)
