"""Every fault, said as it should be, and nothing lost or doubled after the resume. Eight of them in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .campaign import befall, clean
from .faults import FAULTS

IN_CI = {
    "SIGKILL while the judge is asked",
    "segmentation fault in the engine",
    "SIGSTOP to the run",
    "SIGKILL to the sweep",
    "full disk while answers are made",
    "read-only file system",
    "answers.jsonl: 40 zero bytes in the middle",
    "clock jumps a day back",
}
RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return clean(tmp_path_factory.mktemp("clean"))


def _marks(fault):
    marks = [] if fault.name in IN_CI else [pytest.mark.long]
    if fault.disk:
        marks.append(pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which only root may"))
    return marks


@pytest.mark.parametrize("fault", [pytest.param(fault, marks=_marks(fault), id=fault.name) for fault in FAULTS])
def test_fault(fault, expected, tmp_path):
    befall(fault, tmp_path, *expected)


def test_there_are_the_faults_that_ci_asks_for():
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 30
    assert len(IN_CI) == 8 and IN_CI <= set(names)


def test_the_table_in_the_docs_has_every_fault():
    lines = RELIABILITY.read_text(encoding="utf-8").splitlines()
    assert [f.name for f in FAULTS if not any(line.startswith(f"| {f.name} |") for line in lines)] == []
