"""Servers of ours are heard on this machine alone; who wants more says so by --host."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests import mlflow_server
from tests.helpers import REPO


def listening(process: int) -> set[str]:
    """The addresses at which it and what it started wait for connections."""
    found = set()
    for member in [psutil.Process(process), *psutil.Process(process).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
            found |= {c.laddr.ip for c in member.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def test_the_page_of_the_local_store(tmp_path, monkeypatch):
    (tmp_path / "mlruns").mkdir()
    store = (
        f"import mlflow; mlflow.set_tracking_uri('sqlite:///{tmp_path}/mlruns/mlflow.db'); mlflow.search_experiments()"
    )
    subprocess.run([sys.executable, "-c", store], check=True, capture_output=True, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    port = mlflow_server.free_port()
    command = [str(REPO / "scripts" / "mlflow"), "--port", str(port)]
    process = mlflow_server.start(command, port, tmp_path / "log", VLM_EVAL_VENV=sys.prefix)
    try:
        assert listening(process.pid) == {"127.0.0.1"}
    finally:
        mlflow_server.kill(process)


@pytest.mark.needs("postgres")
def test_the_server_of_a_team(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="vlm-eval-test-"))
    folder.chmod(0o755)  # root's PostgreSQL runs as another user
    port = mlflow_server.free_port()
    command = [
        str(REPO / "scripts" / "mlflow_server"),
        "--data",
        str(folder / "d"),
        f"--port={port}",
        "--workers",
        "1",
    ]
    process = mlflow_server.start(command, port, tmp_path / "log", VLM_EVAL_VENV=sys.prefix)
    try:
        assert listening(process.pid) == {"127.0.0.1"}  # PostgreSQL has a socket in a folder, and no port
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)
