"""One engine over several workers, on a CPU: the answers that one alone gives, and no worker stays behind."""

from __future__ import annotations

import psutil
import pytest

from tests.engine.conftest import Sweep, vlm_eval
from vlm_eval.store import RunFolder

pytestmark = pytest.mark.engine

LAYERS = 16  # linear ones of the demo model's decoder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Sweep:
    found = vlm_eval(
        tmp_path_factory.mktemp("parallel"),
        *("-m", "quant=bf16", "engine.tensor_parallel_size=1,2"),
        *("task.repeats=1", "task.sampling.max_tokens=24", "task.sampling.temperature=0"),
        *("engine.latency_pass.items=2", "metrics=tech", "tracking=none"),
    )
    assert found.result.returncode == 0, found.result.stderr
    return found


def texts(run: RunFolder) -> dict[str, str]:
    return {answer.item_id: answer.text for answer in run.read("answers")}


def test_two_workers_answer_as_one_does(sweep):
    one, two = sweep.runs
    facts = two.provenance()["engine"]
    assert facts["arguments"]["tensor_parallel_size"] == 2
    assert facts["found"].startswith(f"{2 * LAYERS} linear layers unquantised at 16 bits")  # each has a part of all
    same = [texts(two)[item] == text for item, text in texts(one).items()]
    assert len(same) == 10 and sum(same) >= 8  # sums are rounded apart
    assert [row.error for row in two.read("latency")] == [None, None]


def test_no_worker_stays_behind(sweep):
    assert not [p for p in psutil.process_iter() if _works_in(p, str(sweep.cwd))]


def _works_in(process: psutil.Process, folder: str) -> bool:
    try:
        return process.cwd() == folder
    except psutil.Error:
        return False
