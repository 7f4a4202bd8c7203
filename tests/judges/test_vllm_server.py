"""judge=server against a real vLLM behind HTTP: every reply is JSON by the schema, whatever the model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import psutil
import pytest

from .server import BAD, GOOD, judge_for, judged, request
from .small_chat import save_random, smollm2

pytestmark = pytest.mark.engine
START_S = 300  # of patience
# As judge=local has it: blanks between its words are JSON too, and random weights write nothing else; xgrammar lets
# control characters into a text of bounded length, which is no JSON.
JSON_ALONE = {"backend": "guidance", "disable_any_whitespace": True}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextlib.contextmanager
def vllm_server(folder, log):
    """vLLM's OpenAI server on the loopback, with `.url`; afterwards its processes are gone and its port is free."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port = any_port.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder), "--served-model-name", "NAME"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-model-len", "4096"]
    command += ["--structured-outputs-config", json.dumps(JSON_ALONE)]
    with open(log, "w") as out:
        process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=out, stderr=out, cwd=log.parent)
    family = []
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not answers(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        family = psutil.Process(process.pid).children(recursive=True)
        yield SimpleNamespace(url=f"{url}/v1", metrics=lambda: get(f"{url}/metrics"))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _, alive = psutil.wait_procs(family, 20)
    assert family and not alive
    with socket.socket() as again:  # raises where it is taken
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def get(url):
    # No proxy: this is the loopback.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as reply:
        return reply.read().decode()


def answers(url):
    try:
        return get(f"{url}/health") == ""
    except OSError:
        return False


def judged_by(folder, image, tmp_path, monkeypatch, **changes):
    """(the rows of 3 items, the judge, the server's own count of tokens)"""
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "cache"))
    texts = [(GOOD, BAD), ("Код из СМС не приходит.", "Нажмите «Отправить снова»."), ("Да.", GOOD)]
    asked = [request(image, text, wanted, "Что делать?", f"s{n}") for n, (text, wanted) in enumerate(texts)]
    with vllm_server(folder, tmp_path / "server.log") as server:
        common = {"api_key_env": None, "image": "never", "retries": 0, "timeout_s": 300, "cache": None}
        judge = judge_for(server, **common, **changes)
        judge.check()
        found = judged(judge, *asked)
        return found, judge, server.metrics()


def check_verdicts(found, judge, metrics, chars):
    assert [(r.item_id, r.order) for r in found] == [(f"s{n}", order) for n in range(3) for order in ("ab", "ba")]
    assert [(r.status, r.error) for r in found] == [("ok", None)] * 6
    for row in found:
        assert row.candidate_score in range(1, 11) and row.reference_score in range(1, 11)
        assert 1 <= len(row.rationale) <= chars and row.saw_image is False
    assert judge.transport._schema_refused is False
    counted = {line.split("{")[0]: float(line.split()[-1]) for line in metrics.splitlines() if line[:5] == "vllm:"}
    # One attempt each: nothing had to be mended. What the rows say is what the server has counted.
    assert (
        sum(row.tokens for row in found)
        == counted["vllm:prompt_tokens_total"] + counted["vllm:generation_tokens_total"]
    )
    assert counted["vllm:time_to_first_token_seconds_count"] == 6


def test_random_weights_give_valid_verdicts(tmp_path, image, monkeypatch):
    folder = save_random(tmp_path / "model")
    found, judge, metrics = judged_by(folder, image, tmp_path, monkeypatch, rationale_chars=40, max_tokens=400)
    check_verdicts(found, judge, metrics, 40)


@pytest.mark.long
def test_a_real_model_gives_reasons_and_scores(tmp_path, image, monkeypatch):
    try:
        folder = smollm2()
    except OSError as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")
    changes = {"prompt": "pairwise.en.txt", "rationale_chars": 300}
    found, judge, metrics = judged_by(folder, image, tmp_path, monkeypatch, **changes)
    check_verdicts(found, judge, metrics, 300)
    letters = "".join(row.rationale for row in found)
    assert sum(map(str.isalpha, letters)) > 0.6 * len(letters)  # words, not what random weights write
