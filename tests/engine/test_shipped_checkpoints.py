"""Each shipped checkpoint reads the shipped screens as well as its model card says."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.engine.conftest import vlm_eval
from vlm_eval.store import RunFolder

REPO = Path(__file__).resolve().parents[2]
MODELS = REPO / "vlm_eval" / "demo" / "models"
FORMS = ("bf16", "gptq8", "gptq4", "awq")
TOLERANCE = 0.08  # 20 screens are a part of the card's 40

pytestmark = pytest.mark.engine


def on_card(form: str) -> float:
    """Recall of screen annotation in the card's table of figures."""
    card = (MODELS / "bf16" / "MODEL_CARD.md").read_text(encoding="utf-8")
    return float(re.search(rf"^\| {form} \| ([\d.]+) ", card, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def twenty(tmp_path_factory) -> Path:
    """The first 20 screens of the full set."""
    folder, shipped = tmp_path_factory.mktemp("data"), REPO / "vlm_eval" / "demo" / "screen_annotation"
    lines = (shipped / "items_full.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "items.csv").write_text("".join(lines[:21]), encoding="utf-8")
    shutil.copytree(shipped / "images", folder / "images")
    return folder


@pytest.fixture(scope="module")
def runs(twenty, tmp_path_factory) -> dict[str, RunFolder]:
    """The run of each form, from one sweep."""
    options = ["task=screen_annotation", f"task.data.root={twenty}", "task.repeats=1", "task.sampling.temperature=0"]
    options += ["metrics=[tech,facts]", "judge=none", "tracking=none", "engine.latency_pass.items=0"]
    sweep = vlm_eval(tmp_path_factory.mktemp("forms"), "-m", "model=demo", f"quant={','.join(FORMS)}", *options)
    assert sweep.result.returncode == 0, sweep.result.stderr[-3000:]
    return dict(zip(FORMS, sweep.runs, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_recall_is_the_model_cards(form, runs):
    run = runs[form].path
    assert f"-{form}-" in run.name
    summary = json.loads((run / "summary.json").read_text())
    assert summary["facts/recall_mean"] == pytest.approx(on_card(form), abs=TOLERANCE)
    log = (run / "run.log").read_text()
    assert not re.search(r"WARNING.*(quant|gptq|awq|format)", log, re.IGNORECASE)
