"""A real MLflow server in a process of its own, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Sequence

import pytest

from .helpers import hear_ctrl_c


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command: Sequence[str], port: int, log: Path, **environment: str) -> subprocess.Popen:
    """Starts it in a session of its own and waits until it answers on 127.0.0.1."""
    with open(log, "w") as out:
        process = subprocess.Popen(
            command,
            start_new_session=True,
            stdout=out,
            stderr=out,
            env={**os.environ, **environment},
            preexec_fn=hear_ctrl_c,  # bash cannot trap what was ignored when it began
        )
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return process
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.2)
    kill(process)
    pytest.fail(f"the MLflow server did not come up: {log.read_text()[-2000:]}")


def kill(process: subprocess.Popen) -> None:
    """Its whole process group, without a chance to clean up."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
