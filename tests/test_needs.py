"""The marker needs(part) itself: what is left out is said, and in CI nothing may be left out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.fixture
def run(tmp_path):
    """Runs pytest on one test module, beside the real conftest.py and a list of two invented parts."""
    (tmp_path / "tests").mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(CONFTEST, tmp_path / "tests")
    (tmp_path / ".ci" / "system_parts.txt").write_text(
        "# part package probes\n"
        "shell some-shell sh\n"
        f"file some-file {sys.executable}\n"
        "absent absent-package no-such-executable\n"
    )

    def run(marker: str, *options: str, require_all: str | None = None) -> subprocess.CompletedProcess:
        module = tmp_path / "tests" / "test_it.py"
        module.write_text(f"import pytest\n\n@pytest.mark.{marker}\ndef test_it():\n    print('it ran')\n")
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "VLM_EVAL_"))}
        if require_all is not None:
            env["VLM_EVAL_REQUIRE_ALL"] = require_all
        command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", str(module), *options]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("part", ["shell", "file"])
def test_a_part_that_is_there_lets_the_test_run(run, part):
    done = run(f"needs('{part}')", require_all="1")
    assert done.returncode == 0 and "it ran" in done.stdout
    assert "NOT RUN" not in done.stdout


@pytest.mark.parametrize("require_all", [None, "0", ""])
def test_a_missing_part_skips_and_is_listed(run, require_all):
    done = run("needs('shell', 'absent')", require_all=require_all)
    assert done.returncode == 0 and "it ran" not in done.stdout and "1 skipped" in done.stdout
    heading, listed = done.stdout.split("NOT RUN (missing system part)")[1].splitlines()[:2]
    assert listed == "absent: tests/test_it.py::test_it"


@pytest.mark.parametrize("options", [(), ("-q",), ("-p", "no:terminal")])
def test_where_all_are_required_a_missing_part_fails(run, options):
    done = run("needs('absent')", *options, require_all="1")
    assert done.returncode == 1 and "it ran" not in done.stdout
    if "no:terminal" not in options:
        assert "absent: tests/test_it.py::test_it" in done.stdout and "absent-package" in done.stdout


@pytest.mark.parametrize("marker", ["needs('abzent')", "needs()", "needs", "needs(part='absent')"])
def test_an_unknown_part_stops_the_session_even_where_the_test_is_deselected(run, marker):
    done = run(marker, "-k", "nothing")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and "needs(" in done.stderr
