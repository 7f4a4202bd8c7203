"""A judge's server and a screenshot for it."""

import pytest
from PIL import Image

from vlm_eval.judges import transport

from .server import KEY, Server


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_TEST_KEY", KEY)
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "judge_cache"))
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "screen.png")
    return tmp_path / "screen.png"
