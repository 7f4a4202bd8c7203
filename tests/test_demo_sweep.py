"""The demo as a whole, held to its limits (scripts/test long)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.mark.long
def test_eight_engines_in_five_minutes_and_a_small_parent(tmp_path):
    done = subprocess.run(
        [sys.executable, REPO / "benchmarks" / "demo_sweep.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 runs ok" in done.stdout
    seconds, mebibytes = re.search(r"(\d+) s \(wanted.*peak (\d+) MiB", done.stdout).groups()
    assert int(seconds) < 300 and int(mebibytes) < 400
