"""A sweep run again over its folder does the missing work and no other: content decides, never names or places."""

from __future__ import annotations

import csv
import re
import shlex
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from vlm_eval import config
from vlm_eval.resume import command_again
from vlm_eval.store import RunFolder, read_json
from vlm_eval.sweep import _what_is_foreign

from .helpers import FAULTY, REPO, make_data, write_table

JUDGED = ("judge=rubric", "metrics=[tech,rouge]", "tracking=none")


@pytest.fixture
def sweep(vlm_eval_cli, monkeypatch, tmp_path):
    """`sweep() -> (lines of the engine's log, the run)`: a sweep of one run over three items, resumed each time after
    the first; the prompt is a file of one's own."""
    data, log, prompt = make_data(tmp_path / "data"), tmp_path / "engine.log", tmp_path / "prompt.txt"
    prompt.write_text("Ответь на вопрос.")
    monkeypatch.setenv("FAULTY_ENGINE_LOG", str(log))
    command = ["-m", *FAULTY, *JUDGED, "task=vqa", f"task.data.root={data}", f"task.system={prompt}", "task.repeats=2"]

    def run(*more: str) -> tuple[list[str], RunFolder]:
        log.write_text("")
        folders = list(Path("multirun").iterdir()) if Path("multirun").is_dir() else []
        resume = [f"sweep.resume={folders[0]}"] if folders else []
        ended = vlm_eval_cli(*command, *resume, *more)
        assert ended.code == 0, ended
        [folder] = Path("multirun").iterdir()
        [point] = read_json(folder / "sweep.json")["points"]
        run.said = ended.err
        return log.read_text().splitlines(), RunFolder(folder / point["folder"])

    run.data, run.prompt = data, prompt
    return run


def table(data: Path) -> list[dict[str, str]]:
    with open(data / "items.csv", encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


def answered(log: list[str]) -> list[tuple[str, str]]:
    return [tuple(line.split()[2:4]) for line in log if line.startswith("answer ")]


def content(run: RunFolder) -> dict[tuple, tuple]:
    """All rows of a run that do not differ from one attempt to the next, by kind and key."""
    found = {("answer", a.item_id, a.repeat): (a.text, a.seed, a.inputs) for a in run.read("answers")}
    found |= {
        ("judgement", j.item_id, j.repeat, j.order): (j.candidate_score, j.inputs) for j in run.read("judgements")
    }
    assert len(found) == len(run.read("answers")) + len(run.read("judgements"))  # no row twice
    return found | {("score", s.item_id, s.repeat): s.values.get("rouge1_f") for s in run.read("scores")}


def test_a_finished_run_is_skipped_in_no_time(sweep):
    log, run = sweep()
    assert len(answered(log)) == 6
    before, files = content(run), {p.name: p.stat().st_mtime_ns for p in run.path.glob("*.jsonl")}
    began = time.monotonic()
    log, run = sweep()
    assert log == [] and "done already" in sweep.said
    assert content(run) == before and {p.name: p.stat().st_mtime_ns for p in run.path.glob("*.jsonl")} == files
    assert time.monotonic() - began < 20  # report and comparison; the run itself is in test_ten_finished_runs


def test_another_picture_under_the_same_name_is_asked_about_again(sweep):
    log, run = sweep()
    before = content(run)
    Image.new("RGB", (64, 48), "green").save(sweep.data / "images" / "b.png")
    log, run = sweep()
    assert answered(log) == [("b", "0"), ("b", "1")]
    after = content(run)
    assert after.keys() == before.keys()
    changed = {key[1] for key in after if after[key] != before[key]}
    assert changed == {"b"}
    assert {key[0] for key in after if after[key] != before[key]} == {"answer", "judgement"}
    assert sweep()[0] == []  # and now it is done


def test_the_same_picture_under_another_name_in_another_row_is_not(sweep):
    log, run = sweep()
    before = content(run)
    (sweep.data / "images" / "b.png").rename(sweep.data / "images" / "экран 2.png")
    rows = table(sweep.data)
    rows[1]["image"] = "экран 2.png"
    write_table(sweep.data / "items.csv", rows[::-1])
    log, run = sweep()
    assert answered(log) == []
    assert content(run) == before
    assert {a.cluster for a in run.read("answers") if a.item_id == "b"} == {"экран 2.png"}


def test_another_prompt_makes_all_work_again(sweep):
    log, run = sweep()
    before = content(run)
    sweep.prompt.write_text("Ответь коротко.")
    log, run = sweep()
    assert len(answered(log)) == 6
    after = content(run)
    assert after.keys() == before.keys() and all(after[k] != before[k] for k in after if k[0] == "answer")


def test_another_reference_is_scored_and_judged_again_and_not_asked(sweep):
    log, run = sweep()
    before = content(run)
    rows = table(sweep.data)
    rows[2]["reference"] = "Ответ c"  # what the engine says
    write_table(sweep.data / "items.csv", rows)
    log, run = sweep()
    assert answered(log) == []
    after = content(run)
    changed = {key for key in after if after[key] != before[key]}
    assert {key[1] for key in changed} == {"c"} and {key[0] for key in changed} == {"judgement", "score"}
    assert after["score", "c", 0] == 1.0
    assert run.summary()["rouge/rouge1_f_mean"] > 0.3


def test_an_item_that_is_gone_leaves_no_row_and_a_new_one_is_asked(sweep):
    sweep()
    Image.new("RGB", (64, 48), "red").save(sweep.data / "images" / "d.png")
    rows = table(sweep.data)
    new = {**rows[0], "item_id": "d", "image": "d.png", "question": "А тут?"}
    write_table(sweep.data / "items.csv", [*rows[1:], new])
    log, run = sweep()
    assert answered(log) == [("d", "0"), ("d", "1")]
    assert {key[1] for key in content(run)} == {"b", "c", "d"}
    assert run.summary()["tech/failed_rate_n"] == 6


def test_judgements_by_another_judge_of_what_has_changed_go_too(sweep, vlm_eval_cli):
    from tests.helpers import python

    _, run = sweep()
    program = "import sys; from vlm_eval.judge_sweep import main; sys.argv[0] = 'vlm-eval-judge'; sys.exit(main())"
    judged = python(program, str(run.path.parent), "judge=rubric", "judge.name=second", cwd=Path.cwd())
    assert judged.returncode == 0, judged.stderr
    by_second = [j for j in run.read("judgements") if j.judge == "second"]
    assert len(by_second) == 12
    Image.new("RGB", (64, 48), "green").save(sweep.data / "images" / "b.png")
    sweep()
    left = [j for j in run.read("judgements") if j.judge == "second"]
    assert left == [j for j in by_second if j.item_id != "b"]


def test_rows_of_a_version_without_addresses_are_work_again(sweep):
    log, run = sweep()
    lines = (run.path / "answers.jsonl").read_text()
    (run.path / "answers.jsonl").write_text(
        "".join(line.partition(', "inputs"')[0] + "}\n" for line in lines.splitlines())
    )
    run.set_status("interrupted", "generate")
    log, run = sweep()
    assert len(answered(log)) == 6


@pytest.mark.parametrize(
    "folder", ["multirun/2026-01-02_03-04-05-ab12", "old", "12", "null", "my sweeps (1)/a, b", "свипы/it's\\", "a=b/c"]
)
def test_the_command_to_go_on_can_be_typed_as_it_is(folder):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    first = ["vlm-eval", "-m", "quant=awq,bf16", "task.data.root='my folder (1)'"]
    command = command_again(folder, {"command": shlex.join(first)})
    assert command_again(folder, {"command": command}) == command  # it is not said twice
    assert command_again("else/where", {"command": command}) == shlex.join([*first, "sweep.resume=else/where"])
    *others, last = shlex.split(command)
    assert others == first
    [override] = OverridesParser.create().parse_overrides([last])
    assert not override.is_sweep_override() and OmegaConf.create({"folder": override.value()}).folder == folder


def test_what_is_foreign_in_a_point():
    points = [["quant=awq", "run.seed=0"], ["quant=bf16", "run.seed=1", "run.timeout_s=5"]]
    assert _what_is_foreign(["quant=gptq4", "run.seed=0"], points) == "quant=gptq4 is not among its overrides"
    assert _what_is_foreign(["quant=awq", "run.seed=1"], points) == "it has not quant=awq, run.seed=1 together"
    points = [["quant=awq", "task=vqa"], ["quant=bf16", "task=vqa"]]
    assert _what_is_foreign(["quant=awq"], points) == "task=vqa is missing"


@pytest.mark.parametrize("name", ["README.md", "README.ru.md"])
def test_the_readme_says_what_may_differ_in_a_resume(name):
    paragraphs = [" ".join(p.split()) for p in (REPO / name).read_text(encoding="utf-8").split("\n\n")]
    [paragraph] = [p for p in paragraphs if "`run.timeout_s`, `sweep.*`" in p]
    named = set(re.findall(r"`([^`]+)`", paragraph))
    told = {key.partition(".")[2] if key.startswith(("engine.", "judge.")) else key for key in config.HOW_IT_IS_RUN}
    # Whose settings of Hydra there are, and where an MLflow run id is looked up, is of no use there.
    told -= {"hydra.", "tracking_uri", "reference.tracking_uri"}
    assert {key + "*" if key.endswith(".") or key == "tracking" else key for key in told} <= named


def test_ten_finished_runs_take_less_than_a_second_each(vlm_eval_cli, tmp_path):
    data = make_data(tmp_path / "data")
    command = ["-m", *FAULTY, "judge=none", "metrics=tech", "tracking=none", "task=vqa", f"task.data.root={data}"]
    command.append(f"run.seed={','.join(map(str, range(10)))}")
    assert vlm_eval_cli(*command).code == 0
    [folder] = Path("multirun").iterdir()
    from vlm_eval import job

    began, seconds = time.monotonic(), []
    real = job.launch

    def timed(*arguments, **where):
        start = time.monotonic()
        status = real(*arguments, **where)
        seconds.append(time.monotonic() - start)
        return status

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "launch", timed)
        ended = vlm_eval_cli(*command, f"sweep.resume={folder}")
    assert ended.code == 0 and ended.err.count("done already") == 10
    assert len(seconds) == 10 and max(seconds) < 1.0
    assert time.monotonic() - began < 60
