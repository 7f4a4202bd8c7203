"""engine=litellm, a model behind an API as a candidate: against a real server on the loopback."""

from __future__ import annotations

import base64
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from vlm_eval import config, preflight
from vlm_eval.engines.base import engine_of, seed_of
from vlm_eval.errors import BadInput
from vlm_eval.generate import generate
from vlm_eval.judges import transport
from vlm_eval.metrics.base import Answered
from vlm_eval.metrics.tech import Tech, TechConfig
from vlm_eval.progress import Reporter
from vlm_eval.store import RunFolder

from .helpers import VLM_EVAL, composed, hear_ctrl_c, make_data, python
from .judges.server import KEY, Server

PRICES = ("engine.usd_per_million_in=100", "engine.usd_per_million_out=1000")  # 100 and 20 tokens a reply: 0.03 USD
AT_MOST_USD = 5.2  # what a request may cost so: 48,169 tokens a picture, a letter a token, 256 tokens out
ALL_MAY_FAIL = "engine.max_fail_rate=1"
NO_CACHE = "engine.cache=null"


def question(body) -> str:
    """The item's id: the last word of its question, without the mark."""
    return body["messages"][1]["content"][1]["text"].split()[-1].rstrip("?")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Answers every question with "Ответ" and its item; keys, pauses and the cache are the test's own."""
    monkeypatch.setenv("API_TEST_KEY", KEY)
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    transport.data_url.cache_clear()
    server = Server()
    server.script = lambda number, body: (200, f"Ответ {question(body)}")
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def asked(server, tmp_path):
    """Overrides: three questions, a, b and c, to that server."""
    return [
        *("model=api", "model.litellm=openai/NAME", f"engine.api_base={server.url}", "engine.api_key_env=API_TEST_KEY"),
        *("task=vqa", f"task.data.root={make_data(tmp_path / 'data')}", "judge=none", "metrics=tech", "tracking=none"),
    ]


@pytest.fixture
def run(asked, tmp_path):
    """`run(*overrides, folder="run") -> RunFolder`: the stages that need the engine, in this process."""

    def answered(*more: str, folder: str = "run") -> RunFolder:
        cfg = composed(*asked, "engine.retries=2", *more)
        task = config.build(cfg.task)
        items = {item.item_id: item for item in task.items()}
        (tmp_path / folder).mkdir(exist_ok=True)
        generate(cfg, task, engine_of(cfg, task), items, RunFolder(tmp_path / folder), Reporter(None))
        return RunFolder(tmp_path / folder)

    return answered


def rows(folder: RunFolder) -> dict:
    return {(a.item_id, a.repeat): a for a in folder.read("answers")}


def tech(folder: RunFolder) -> dict[str, float]:
    """The numbers of the metric tech, but for those of the texts."""
    engine = folder.provenance()["engine"]
    return Tech(TechConfig()).summarise(Answered({}, folder.read("answers"), folder.read("latency"), engine), [])


# ------------------------------------------------------------------------------------------------------- what is asked


def test_answers_and_what_is_known_of_them(run, server):
    found = rows(run("task.repeats=2", "task.sampling.temperature=0.3", "task.sampling.max_tokens=99"))
    assert {key: a.text for key, a in found.items()} == {(i, r): f"Ответ {i}" for i in "abc" for r in (0, 1)}
    assert {(a.finish_reason, a.prompt_tokens, a.output_tokens, a.error) for a in found.values()} == {
        ("stop", 100, 20, None)
    }
    assert {a.cluster for a in found.values()} == {"a.png", "b.png", "c.png"}
    assert {(i, r): a.seed for (i, r), a in found.items()} == {(i, r): seed_of(0, i, r) for i, r in found}
    bodies = server.bodies
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in bodies} == {("NAME", 0.3, 99)}
    assert Counter((question(b), b["seed"]) for b in bodies) == Counter((i, a.seed) for (i, _), a in found.items())
    assert not any({"response_format", "top_p"} & set(b) for b in bodies)  # free text; top_p is what it is anyway


def test_the_screenshot_goes_as_it_is_and_the_prompt_as_the_task_has_it(run, server, tmp_path):
    run("engine.concurrency=1")
    for body in server.bodies:
        system, user = body["messages"]
        assert (system["role"], user["role"]) == ("system", "user") and len(system["content"]) > 20
        picture, words = user["content"]
        head, _, data = picture["image_url"]["url"].partition(",")
        file = tmp_path / "data" / "images" / f"{question(body)}.png"
        assert head == "data:image/png;base64" and base64.b64decode(data) == file.read_bytes()
        assert words == {"type": "text", "text": f"Что на экране {question(body)}?"}


def test_a_screenshot_without_words_is_asked_too(run, server):
    server.script = lambda number, body: (200, "Не могу войти")
    folder = run("task=screen_annotation", "task.repeats=1", "engine.budget_usd=90", *PRICES)
    assert {a.text for a in folder.read("answers")} == {"Не могу войти"}
    assert [len(b["messages"][1]["content"]) for b in server.bodies] == [1] * 3


def test_top_p_is_sent_where_it_is_set(run, server):
    run("task.sampling.top_p=0.5")
    assert {b["top_p"] for b in server.bodies} == {0.5}


def test_what_a_provider_does_not_take_is_said_and_not_sent(run, server):
    folder = run("model.litellm=openai/o1", NO_CACHE)
    assert not any({"temperature", "top_p"} & set(b) for b in server.bodies)
    assert folder.provenance()["engine"]["not_taken"] == "temperature, top_p"
    assert run(folder="other").provenance()["engine"]["not_taken"] is None


def test_a_seed_that_is_not_sent_is_not_in_the_rows(run, server):
    assert {a.seed for a in run("model.litellm=openai/gpt-4o").read("answers")} == {seed_of(0, i, 0) for i in "abc"}
    cfg = composed("model=api", "model.litellm=anthropic/claude-sonnet-4-5", "metrics=tech")
    assert engine_of(cfg, config.build(cfg.task))._not_taken() == ["seed"]


def test_no_more_requests_than_allowed_are_under_way(run, server):
    def script(number, body):
        time.sleep(0.05)
        return 200, "да"

    server.script = script
    run("task.repeats=4", "engine.concurrency=3")
    assert server.most_busy == 3


def test_facts_of_the_engine(run, server):
    folder = run()
    engine = folder.provenance()["engine"]
    assert engine["litellm_model"] == "openai/NAME" and engine["api_host"] == server.url.split("/")[2]
    assert engine["found"] == f"openai/NAME at {engine['api_host']}"
    # This process's memory and its time, the cache's among it, are not the model's.
    assert not {"tech/output_tokens_per_s", "tech/generation_wall_s", "tech/host_peak_gib"} & set(tech(folder))


# -------------------------------------------------------------------------------------------------------- what can fail


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(run, server, status):
    server.script = lambda number, body: (status, "busy") if number <= 2 else (200, "да")
    found = run("engine.concurrency=1")
    assert [a.text for a in found.read("answers")] == ["да"] * 3 and len(server.bodies) == 5


def for_b(server, status, message, **extra):
    """The server's script: this for item b, and an answer for the others. One request at a time, please."""

    def script(number, body):
        server.extra = extra if question(body) == "b" else {}
        return (status, message) if question(body) == "b" else (200, f"Ответ {question(body)}")

    server.script = script
    return "engine.concurrency=1"


def test_500_for_ever_is_a_failed_answer_with_its_reason(run, server):
    found = rows(run(for_b(server, 500, "the disk is on fire"), ALL_MAY_FAIL))
    assert {i: a.text for (i, _), a in found.items()} == {"a": "Ответ a", "b": None, "c": "Ответ c"}
    failed = found["b", 0]
    assert failed.finish_reason == "error" and failed.output_tokens is None
    assert "the disk is on fire" in failed.error and "after 3 attempts" in failed.error


def test_a_wrong_request_is_not_repeated(run, server):
    found = rows(run(for_b(server, 400, "no such thing"), ALL_MAY_FAIL))
    assert "no such thing" in found["b", 0].error and len(server.bodies) == 3


def test_a_timeout_is_a_failed_answer(run, server):
    server.script = lambda number, body: (time.sleep(1.5 * (question(body) == "b")), (200, "да"))[1]
    found = rows(run("engine.timeout_s=0.4", "engine.retries=0", ALL_MAY_FAIL))
    assert found["a", 0].text == "да" and found["b", 0].text is None and "imeout" in found["b", 0].error


@pytest.mark.parametrize(
    "message, extra, reason",
    [
        ({"role": "assistant", "content": None, "refusal": "Не могу помочь"}, {}, "Не могу помочь"),
        ("Начало отв", {"finish_reason": "content_filter"}, "stopped by the provider's content filter"),
    ],
    ids=["refusal", "content_filter"],
)
def test_a_refusal_is_a_failed_answer_of_the_models_own(run, server, message, extra, reason):
    folder = run(for_b(server, 200, message, **extra))  # whatever engine.max_fail_rate is: it was answered
    failed = rows(folder)["b", 0]
    assert (failed.text, failed.finish_reason, failed.error) == (None, "content_filter", reason)
    assert run().read("answers") == folder.read("answers") and len(server.bodies) == 3  # nor is it asked again
    assert tech(folder)["tech/failed_rate"] == pytest.approx(1 / 3)


def test_an_answer_that_is_cut_off_says_so(run, server):
    folder = run(for_b(server, 200, "Начало отв", finish_reason="length"))
    assert (rows(folder)["b", 0].text, rows(folder)["b", 0].finish_reason) == ("Начало отв", "length")
    assert tech(folder)["tech/truncated_rate"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "extra, reason",
    [({}, "the answer is empty"), ({"finish_reason": "length"}, "cut off at task.sampling.max_tokens=256 before")],
)
def test_an_empty_answer_is_a_failed_one_and_is_not_kept_for_later(run, server, extra, reason):
    found = rows(run(for_b(server, 200, " \n", **extra)))
    assert found["b", 0].text is None and reason in found["b", 0].error
    server.script, server.extra = lambda number, body: (200, "да"), {}
    assert rows(run(folder="second"))["b", 0].text == "да"


def test_more_failures_than_allowed_fail_the_run_and_are_asked_for_again(run, server, tmp_path):
    with pytest.raises(RuntimeError, match="33% of answers could not be had, over engine.max_fail_rate=10%.*on fire"):
        run(for_b(server, 500, "the disk is on fire"))
    assert len(rows(RunFolder(tmp_path / "run"))) == 3  # the failed one among them
    server.script, server.bodies[:] = lambda number, body: (200, f"Ответ {question(body)}"), []
    folder = run(NO_CACHE)
    assert [question(b) for b in server.bodies] == ["b"]
    assert {i: a.text for (i, _), a in rows(folder).items()} == {i: f"Ответ {i}" for i in "abc"}
    assert len(folder.read("answers")) == 3


def test_the_share_that_fails_is_of_the_whole_run(run, server, tmp_path):
    fails = for_b(server, 500, "on fire")
    with pytest.raises(RuntimeError):
        run(fails)
    run("engine.max_fail_rate=0.34")  # only b is asked again; it is one of three, not one of one
    assert rows(RunFolder(tmp_path / "run"))["b", 0].text is None


# ---------------------------------------------------------------------------------------------------- cache and money


def test_a_second_run_sends_nothing_and_pays_nothing(run, server):
    first, second = run("task.repeats=2", *PRICES), run("task.repeats=2", *PRICES, folder="second")
    assert len(server.bodies) == 6

    def without_cost(folder):
        return {
            key: (a.text, a.finish_reason, a.prompt_tokens, a.output_tokens, a.seed) for key, a in rows(folder).items()
        }

    assert without_cost(first) == without_cost(second)
    assert tech(first)["tech/cost_usd"] == pytest.approx(6 * 0.03) and tech(second)["tech/cost_usd"] == 0


@pytest.mark.parametrize("changed", ["run.seed=1", "task.sampling.max_tokens=9", "task.sampling.top_p=0.5"])
def test_what_would_be_answered_otherwise_is_asked(run, server, changed):
    run()
    run(changed, folder="second")
    assert len(server.bodies) == 6


def test_the_price_that_litellm_knows(run, server):
    folder = run("model.litellm=openai/gpt-4o")
    assert [a.cost_usd for a in folder.read("answers")] == pytest.approx([100 * 2.5e-6 + 20 * 1e-5] * 3)


def test_an_unknown_price_is_no_number(run):
    folder = run()
    assert {a.cost_usd for a in folder.read("answers")} == {None} and "tech/cost_usd" not in tech(folder)


def test_a_sum_over_part_of_the_answers_is_no_number_either(run):
    folder = run(*PRICES)
    [first, *others] = folder.read("answers")
    folder.replace("answers", [replace(first, cost_usd=None), *others])
    assert "tech/cost_usd" not in tech(folder)


def test_the_budget_is_a_hard_stop_and_a_higher_one_goes_on(run, server, tmp_path):
    budget = (*PRICES, "task.repeats=10", NO_CACHE)
    said = "could not be had.*engine.budget_usd=5.3: 0.*USD spent, the next may take 5"
    with pytest.raises(RuntimeError, match=said):
        run("engine.budget_usd=5.3", "engine.concurrency=4", *budget)
    folder = RunFolder(tmp_path / "run")
    stopped = [a for a in folder.read("answers") if a.finish_reason == "over_budget"]
    paid = [a for a in folder.read("answers") if a.text]
    assert len(paid) + len(stopped) == 30 and len(paid) == len(server.bodies) > 0
    assert sum(a.cost_usd for a in paid) <= 5.3 and all("engine.budget_usd=5.3" in a.error for a in stopped)
    assert 5.3 - sum(a.cost_usd for a in paid) < AT_MOST_USD  # and it was used

    # What was paid for before counts: nothing is left.
    sent = len(server.bodies)
    with pytest.raises(RuntimeError, match="engine.budget_usd=5.3"):
        run("engine.budget_usd=5.3", *budget)
    assert len(server.bodies) == sent
    run("engine.budget_usd=90", *budget)
    assert len(server.bodies) == 30 and all(a.text for a in folder.read("answers"))
    assert tech(folder)["tech/cost_usd"] == pytest.approx(30 * 0.03)


def test_answers_timed_alone_are_asked_one_at_a_time_and_never_taken_from_the_disk(run, server):
    timing = (*PRICES, "engine.latency_pass.items=2")
    server.script = lambda number, body: (time.sleep(0.05), (200, "да"))[1]
    for name in ("run", "second"):
        folder = run(*timing, folder=name)
        timed = folder.read("latency")
        assert [x.item_id for x in timed] == ["a", "b"] and all(0.05 < x.latency_s < 5 for x in timed)
        assert {(x.output_tokens, x.chars, x.error) for x in timed} == {(20, 2, None)}
    assert len(server.bodies) == 2 * (1 + 2) + 3  # a warm-up and two each time, and the answers once
    assert tech(run(*timing))["tech/cost_usd"] == pytest.approx((2 + 3) * 0.03)


def test_what_is_timed_alone_counts_against_the_budget(run, server, asked):
    one = preflight.check(composed(*asked, *PRICES)).answers_usd / 3
    with pytest.raises(RuntimeError, match="100% of answers could not be had"):
        run(*PRICES, "engine.latency_pass.items=2", f"engine.budget_usd={one + 0.05}")
    assert len(server.bodies) == 2  # the warm-up and the first one timed


def test_an_answer_that_could_not_be_timed_has_its_reason(run, server):
    server.script = lambda number, body: (500, "busy") if number <= 2 else (200, "да")
    [timed] = run("engine.latency_pass.items=1").read("latency")
    assert timed.latency_s is None and "busy" in timed.error


# -------------------------------------------------------------------------------------------------------- before a run


def refusal(asked, *more) -> str:
    with pytest.raises(BadInput) as error:
        preflight.check(composed(*asked, *more))
    return str(error.value)


def test_nothing_is_sent_before_the_run(asked, server):
    plan = preflight.check(composed(*asked, "task.repeats=2", *PRICES))
    assert not server.bodies
    assert (plan.answers, plan.memory_gib) == (6, 0.0) and 6 * 0.5 < plan.answers_usd < 6 * AT_MOST_USD
    assert preflight.check(composed(*asked)).answers_usd is None


@pytest.mark.parametrize(
    "more, said",
    [
        (["quant=awq"], "quant=awq: nothing tells what an API has loaded; engine=litellm takes quant=none"),
        (["model.litellm="], "model.litellm: no value given"),
        (["model.litellm=NAME"], "model.litellm=NAME: no provider; write openai/NAME"),
        (["model.litellm=openai/gpt-3.5-turbo"], "model.litellm=openai/gpt-3.5-turbo: sees no images"),
        (["engine.api_key_env=NO_SUCH_VARIABLE"], "engine.api_key_env=NO_SUCH_VARIABLE is not set"),
        ([f"engine.api_key_env={KEY}"], "engine.api_key_env: not the name of a variable"),
        (["engine.api_base=127.0.0.1:8000"], "engine.api_base=127.0.0.1:8000: an address such as"),
        (["engine.api_base=http://me:secret@127.0.0.1/v1"], "engine.api_base: holds a password"),
        (["engine.concurrency=0"], "engine.concurrency=0: at least 1"),
        (["engine.timeout_s=0"], "engine.timeout_s=0"),
        (["engine.usd_per_million_in=1"], "engine.usd_per_million_in, usd_per_million_out: give both or none"),
        (
            ["engine.budget_usd=1"],
            "engine.budget_usd=1: no price is known for openai/NAME; give engine.usd_per_million",
        ),
        (["task.image.max_pixels=9999"], "task.image.max_pixels: an API makes pictures smaller as it likes"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_said_before_anything_is_sent(asked, server, more, said):
    message = refusal(asked, *more)
    assert message.startswith(said) and "\n" not in message
    assert not server.bodies and KEY not in message and "secret" not in message


def test_gpt4o_brings_its_engine_and_quant(monkeypatch):
    cfg = composed("model=gpt4o")
    assert (cfg.model.name, cfg.model.litellm) == ("gpt-4o-2024-11-20", "openai/gpt-4o-2024-11-20")
    assert (cfg.quant.name, cfg.engine.api_base, cfg.engine.api_key_env) == ("none", None, "OPENAI_API_KEY")
    assert cfg.engine._target_ == "vlm_eval.engines.litellm.LitellmEngine"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    plan = preflight.check(cfg)
    assert plan.answers == 50 and 0.1 < plan.answers_usd < 3


@pytest.mark.parametrize(
    "chosen, expected",
    [
        ([], ("demo", "bf16", "vllm")),
        (["model=qwen2_vl_7b", "quant=awq"], ("Qwen2-VL-7B-Instruct", "awq", "vllm")),
        (["model=gpt4o", "quant=awq"], ("gpt-4o-2024-11-20", "awq", "litellm")),  # and is refused
        (["model=gpt4o", "engine=vllm"], ("gpt-4o-2024-11-20", "none", "vllm")),
        (["engine=replay", "engine.path=x.csv"], ("x", "recorded", "replay")),
        (["engine=replay_seed", "engine.path=x-AWQ.csv"], ("x", "awq", "replay")),
        (["engine=replay", "engine.path=x.csv", "model=demo"], ("demo", "recorded", "replay")),
    ],
    ids=str,
)
def test_who_brings_what(chosen, expected):
    cfg = composed(*chosen)
    assert (cfg.model.name, cfg.quant.name, cfg.engine._target_.split(".")[-2]) == expected


def test_the_module_imports_nothing_heavy(tmp_path):
    code = "import sys, vlm_eval.engines.litellm; print({'litellm', 'openai', 'torch', 'numpy'} & set(sys.modules))"
    assert python(code, cwd=tmp_path).stdout == "set()\n"


# ------------------------------------------------------------------------------------------------------ whole commands


def test_a_run_from_the_command_line_and_the_key_in_no_file(vlm_eval_cli, asked, server, tmp_path):
    def script(number, body):  # quotes the request's header, as some servers do
        return (200, f"Ключ {KEY}") if question(body) == "a" else (400, f"bad header: Bearer {KEY}")

    server.script = script
    ended = vlm_eval_cli(*asked, ALL_MAY_FAIL, "task.repeats=2", *PRICES)
    assert ended.code == 0, ended.err
    assert set(server.keys) == {f"Bearer {KEY}"}
    [run] = [RunFolder(p) for p in Path("multirun").glob("*/api-none-vqa-*")]
    assert {a.text or a.error.rpartition("bad")[2] for a in run.read("answers")} == {
        "Ключ ***",
        " header: Bearer ***",
    }
    assert run.summary()["tech/failed_rate"] == pytest.approx(2 / 3)
    assert run.summary()["tech/cost_usd"] == pytest.approx(2 * 0.03)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {"answers.jsonl", "config.yaml", "run.log", "answers.sqlite"} <= {p.name for p in files}
    assert [p for p in files if KEY.encode() in p.read_bytes()] == []
    assert KEY not in ended.out + ended.err


def test_ctrl_c_keeps_what_was_answered_and_the_rest_is_asked_afterwards(vlm_eval_cli, asked, server, tmp_path):
    hold = threading.Event()

    def script(number, body):
        if number > 2:
            hold.wait(30)
        return 200, f"Ответ {question(body)}"

    server.script = script
    command = [VLM_EVAL, *asked, "hydra.run.dir=run", NO_CACHE, "engine.concurrency=2"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, cwd=tmp_path / "cwd", stdout=said, stderr=said, preexec_fn=hear_ctrl_c)
    try:
        until = time.monotonic() + 60
        while len(RunFolder("run").read("answers")) < 2 or len(server.bodies) < 3:
            assert time.monotonic() < until and process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130  # not held up by the request that is under way
    finally:
        process.kill()
        hold.set()
    before = RunFolder("run").read("answers")
    assert len(before) == 2 and RunFolder("run").status()["state"] == "interrupted"
    server.bodies.clear()
    assert vlm_eval_cli(*asked, "hydra.run.dir=run", NO_CACHE, "engine.concurrency=4").code == 0
    after = RunFolder("run").read("answers")
    assert after[:2] == before and {a.text for a in after} == {f"Ответ {i}" for i in "abc"} and len(server.bodies) == 1


def test_beside_a_model_of_ones_own_in_one_sweep(vlm_eval_cli, asked, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    task = [a for a in asked if a.startswith(("task", "judge", "metrics", "tracking"))]
    ended = vlm_eval_cli("-m", "model=gpt4o,demo", "sweep.dry_run=true", *task)
    assert ended.code == 0, ended.err
    assert "2 points, 6 answers (up to 0.1" in ended.out
