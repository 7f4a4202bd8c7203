"""What the end of a sweep says of its runs together: common answers, a baseline, judges that differ."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vlm_eval import config, gate, judging, sweep_statistics
from vlm_eval.comparison import ended_as, not_comparable, read_runs, write_comparison
from vlm_eval.points import read_points
from vlm_eval.provenance import inputs
from vlm_eval.rows import Answer, Judgement
from vlm_eval.statistics.multiplicity import holm
from vlm_eval.statistics.paired import compare
from vlm_eval.store import RunFolder, read_json, write_json
from vlm_eval.sweep import close
from vlm_eval.tracking.none import NoTracking, NoTrackingConfig

from .helpers import composed, make_data, write_table

SHOTS = 8
JUDGE = {
    "names": ["j"],
    "config": {"_target_": "vlm_eval.judges.pairwise.PairwiseJudge", "name": "j", "order": "both", "image": "auto"},
    "facts": {"judge_model": "some/model", "judge_prompt_sha256": "0a"},
}


class Sweep:
    """A judged sweep's folder as vlm-eval leaves it, without the answers' texts that matter to nobody here."""

    def __init__(self, root: Path):
        self.root, self.points, self.statistics = root, [], {}

    def run(self, quant, levels, task="t", state="ok", judge=JUDGE, saw_image=True, overrides=None):
        """`levels`: the candidate's score of each screenshot's answer, None where its judgement failed."""
        name = f"m-{quant}-{task}-{len(self.points)}"
        overrides = [f"quant={quant}"] if overrides is None else overrides
        self.points.append({"folder": name, "overrides": overrides})
        write_json(self.root / "sweep.json", self.sweep)
        if state == "missing":
            return name
        folder = RunFolder(self.root / name)
        (folder.path / ".hydra").mkdir(parents=True)
        groups = {group: {"name": value} for group, value in (("model", "m"), ("quant", quant), ("task", task))}
        OmegaConf.save(OmegaConf.create(groups), folder.path / ".hydra" / "config.yaml")
        folder.set_status(state, error=None if state == "ok" else "CUDA out of memory")
        folder.append("answers", [Answer(f"i{n}", 0, f"s{n}", "текст") for n in range(len(levels))])
        folder.append(
            "judgements",
            [
                Judgement(f"i{n}", 0, "j", order, 0, saw_image, s, s and 8.0, "", "invalid" if s is None else "ok")
                for n, s in enumerate(levels)
                for order in ("ab", "ba")
            ],
        )
        folder.provenance(judge=judge["facts"], judges={"j": {"main": True, **judge}})
        judging.summarise_judges(folder)
        return name

    @property
    def sweep(self):
        fixed = {"sweep_id": "s", "command": "vlm-eval -m", "started": "2026-11-24T12:00:00+00:00"}
        fixed |= {"cwd": str(self.root), "mlflow_run_id": None}
        return {"points": self.points, "statistics": self.statistics, **fixed}

    def close(self, capsys):
        """What the closing table says, and both tables' rows by run."""
        close(self.root, self.sweep, NoTracking(NoTrackingConfig("")))
        return capsys.readouterr().out, by_run(self.root / "comparison.csv"), by_run(self.root / "paired.csv")


def by_run(file: Path):
    if not file.is_file():
        return None
    with open(file, encoding="utf-8", newline="") as table:
        return {row["run"]: row for row in csv.DictReader(table)}


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def around(mean, spread=1.0):
    return [mean + spread * (-1) ** n for n in range(SHOTS)]


def cell_of(said, run, heading):
    """A cell of the closing table; its headings stand over columns of one width."""
    head, _, *rows = said.splitlines()
    [row] = [row for row in rows if row.startswith(f"{run} ")]
    end = head.index(heading) + len(heading)
    return row[head.index(heading) : end].strip()


# --------------------------------------------------------------------------------------------------- judges that differ


def other(**changes):
    return {**JUDGE, **changes}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"judge": other(facts={**JUDGE["facts"], "judge_model": "other"})}, "judge.model differs: some/model"),
        ({"judge": other(facts={**JUDGE["facts"], "judge_prompt_sha256": "1b"})}, "judge.prompt_sha256 differs: 0a"),
        ({"judge": other(config={**JUDGE["config"], "order": "random"})}, "judge.order differs: both"),
        (
            {"judge": other(config={**JUDGE["config"], "_target_": "a.B"})},
            "judge._target_ differs: vlm_eval.judges.pair",
        ),
        ({"judge": other(names=["j", "k"])}, "judge.names differs: j (2 runs), j, k (1 runs)"),
        ({"saw_image": False}, "judge.saw_image differs: yes (2 runs), no (1 runs)"),
    ],
)
def test_runs_of_different_judges_are_named_and_have_no_common_answers(sweep, capsys, changes, said):
    names = [sweep.run("bf16", around(6)), sweep.run("awq", around(6))]
    alone = sweep.run("gptq4", [None, *around(6)[1:]], **changes)
    out, table, _ = sweep.close(capsys)
    [line] = [line for line in out.splitlines() if line.startswith("judge: ")]
    assert line.startswith(f"judge: not comparable between all runs, {said}")
    assert read_json(sweep.root / "sweep.json")["not_comparable"] == [line]
    fact = said.split()[0]
    assert table[names[0]][fact] != table[alone][fact]
    assert [table[name]["judge/match_ratio_common_n"] for name in (*names, alone)] == ["8", "8", ""]


def test_how_a_judge_is_asked_and_one_that_judged_nothing_make_no_difference(sweep):
    sweep.run("bf16", around(6))
    sweep.run("awq", around(6), judge=other(config={**JUDGE["config"], "concurrency": 3, "image": "required"}))
    sweep.run("gptq8", [None] * SHOTS)
    sweep.run("gptq4", around(6), state="missing")
    assert not_comparable(read_runs(sweep.root, sweep.sweep)) == []


def test_runs_judged_before_judges_had_names_are_told_apart_too(sweep):
    for quant, prompt in (("bf16", "0a"), ("awq", "1b")):
        folder = RunFolder(sweep.root / sweep.run(quant, around(6)))
        folder.provenance(judges={}, judge={"judge_prompt_sha256": prompt})
    [said] = not_comparable(read_runs(sweep.root, sweep.sweep))
    assert said.startswith("judge: not comparable") and "judge.prompt_sha256 differs" in said


def test_members_of_a_panel_are_what_they_are(sweep):
    for quant, order in (("bf16", "both"), ("awq", "random")):
        made = {"_target_": "x.Panel", "members.a._target_": "x.Pairwise", "members.a.order": order}
        judge = other(config=made, facts={"judge_panel": {"j": {"judge_model": quant}}})
        sweep.run(quant, around(6), judge=judge)
    said = not_comparable(read_runs(sweep.root, sweep.sweep))
    assert {s.split()[6] for s in said} == {"judge.panel.j.judge_model", "judge.members.a.order"}


def test_the_gate_refuses_a_judge_that_saw_no_screenshot(sweep, monkeypatch, capsys):
    sweep.run("bf16", around(6))
    sweep.run("awq", around(6), saw_image=False)
    monkeypatch.setattr("sys.argv", ["gate", str(sweep.root), "--baseline", "quant=bf16", "--margin", "0.1"])
    assert gate.main() == 1
    assert "another judge" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- common answers


def test_the_ratio_of_the_answers_that_all_runs_have(sweep, capsys):
    """Each run lost another answer, one of them its worst: on common answers it is no better."""
    full = sweep.run("bf16", [1, 2, 4, 4, 4, 4, 4, 4])
    lost = sweep.run("awq", [None, 2, 4, 4, 4, 4, 4, 4])
    worse = sweep.run("gptq4", [1, None, 4, 4, 4, 4, 4, 2])
    sweep.run("gptq8", [8, 8, 8, None, None, None, None, None], state="failed")  # is not compared
    sweep.run("bf16", [4, None, None, 4], task="other")
    other_task = sweep.run("awq", [2, 4, None, 4], task="other")
    out, table, paired = sweep.close(capsys)
    found = {name: row["judge/match_ratio_common"] for name, row in table.items()}
    assert float(found[full]) == float(found[lost]) == pytest.approx(24 / 48)
    assert float(found[worse]) == pytest.approx(22 / 48)
    assert float(found[other_task]) == pytest.approx(6 / 16)
    assert table[full]["judge/match_ratio_common_n"] == "6" and table[other_task]["judge/match_ratio_common_n"] == "2"
    low, high = (float(table[worse][f"judge/match_ratio_common_ci_{end}"]) for end in ("low", "high"))
    assert low < 22 / 48 < high and table[other_task]["judge/match_ratio_common_ci_low"] == ""
    assert list(found.values()).count("") == 1
    assert cell_of(out, full, "of common answers") == "0.500" and cell_of(out, worse, "of common answers") == "0.458"
    assert paired is None  # no baseline was asked for


def test_it_is_not_shown_where_all_runs_have_the_same_answers(sweep, capsys):
    for quant in ("bf16", "awq"):
        sweep.run(quant, [None, *around(6)])
    out, table, _ = sweep.close(capsys)
    assert "of common answers" not in out
    assert {row["judge/match_ratio_common"] for row in table.values()} == {
        row["judge/match_ratio"] for row in table.values()
    }


def test_no_answer_in_common_is_said(sweep, capsys):
    sweep.run("bf16", [4, None])
    sweep.run("awq", [None, 4])
    out, table, _ = sweep.close(capsys)
    assert "judge: no answer of task t is judged in all of its 2 runs" in out.splitlines()
    assert {row.get("judge/match_ratio_common", "") for row in table.values()} == {""}


# ---------------------------------------------------------------------------------------------------- the first columns


def test_model_quant_and_task_are_columns_whether_overridden_or_not(sweep):
    never = sweep.run("awq", [], state="missing")  # the first row has not all columns
    given = sweep.run("awq", around(6), overrides=["quant=as_given", "run.seed=1"])
    write_comparison(sweep.root, read_runs(sweep.root, sweep.sweep))
    with open(sweep.root / "comparison.csv", encoding="utf-8", newline="") as table:
        head = next(csv.reader(table))
    assert head[:6] == ["run", "model", "quant", "task", "state", "error"] and len(head) == len(set(head))
    rows = by_run(sweep.root / "comparison.csv")
    assert [rows[given][key] for key in ("model", "quant", "task", "run.seed")] == ["m", "as_given", "t", "1"]
    assert [rows[never][key] for key in ("model", "quant", "task")] == ["", "awq", ""]


# ------------------------------------------------------------------------------------------------------------- baseline


def test_every_run_against_the_baseline_of_its_task(sweep, capsys):
    sweep.statistics = {"baseline": "quant=bf16", "margin": 0.05}
    base, awq = sweep.run("bf16", around(6)), sweep.run("awq", [*around(6)[:-1], None])
    worse, loud = sweep.run("gptq4", [3, 2] * 4), sweep.run("gptq8", [3, 9, 6, 8, 4, 7, 2, 9])
    task_base, other = sweep.run("bf16", around(4), task="u"), sweep.run("awq", [5, 3, 5, 3, 5, 3, 4, 4], task="u")
    out, _, paired = sweep.close(capsys)
    assert list(paired) == [awq, worse, loud, other]
    assert {name: row["baseline"] for name, row in paired.items()} == {
        **dict.fromkeys((awq, worse, loud), base),
        other: task_base,
    }
    points = {p.run.folder: p for p in read_points(sweep.root)}
    expected = {name: compare(points[name].rows, points[row["baseline"]].rows, 0.05) for name, row in paired.items()}
    adjusted = holm([expected[name].p for name in (awq, worse, loud)])
    assert [float(paired[name]["p_holm"]) for name in (awq, worse, loud)] == pytest.approx(adjusted)
    assert paired[other]["p_holm"] == paired[other]["p"]  # alone in its task
    for name, found in expected.items():
        row = {k: float(v) for k, v in paired[name].items() if k in sweep_statistics.NUMBERS}
        wanted = {k: getattr(found, v) for k, v in sweep_statistics.NUMBERS.items() if k != "p_holm"}
        assert {k: row[k] for k in wanted} == pytest.approx(wanted)
    assert (paired[awq]["n"], paired[worse]["n"]) == ("7", "8")  # on the answers that both have
    assert float(paired[worse]["ratio"]) == pytest.approx(2.5 / 6)
    assert paired[awq]["verdict"] == "no difference in any of 7 screenshots"
    assert paired[worse]["verdict"].startswith("lower: -0.438 (95 % ")
    assert paired[loud]["verdict"].startswith("no difference shown: ") and "would have been" in paired[loud]["verdict"]
    lines = out.splitlines()
    at = lines.index("Match ratio against quant=bf16, on the answers both have (p by Holm, paired.csv):")
    assert lines[at + 1 : at + 5] == [f"  {name}: {row['verdict']}" for name, row in paired.items()]


@pytest.mark.parametrize(
    "margin, verdict", [(0.05, "equivalent within 0.05"), (0.001, "no difference shown"), (None, "no")]
)
def test_equivalent_is_said_inside_the_margin_alone(sweep, capsys, margin, verdict):
    sweep.statistics = {"baseline": "quant=bf16", "margin": margin}
    sweep.run("bf16", around(6))
    name = sweep.run("awq", [x + 0.1 * (-1) ** (n // 2) for n, x in enumerate(around(6))])
    _, _, paired = sweep.close(capsys)
    assert paired[name]["verdict"].startswith(verdict) and ("equivalent" in paired[name]["verdict"]) == (margin == 0.05)


def test_the_sign_flip_check_is_there_up_to_15_screenshots(sweep, capsys):
    sweep.statistics = {"baseline": "quant=bf16", "margin": None}
    for task, shots in (("few", 15), ("many", 16)):
        sweep.run("bf16", [6.0] * shots, task=task)
        sweep.run("awq", [5.0 + n % 2 for n in range(shots)], task=task)
    few, many = sweep.close(capsys)[2].values()
    assert 0 < float(few["p_sign_flip"]) < 0.05 and many["p_sign_flip"] == "" and float(many["p"]) < 0.05


def test_why_a_run_is_not_compared(sweep, capsys):
    sweep.statistics = {"baseline": "quant=bf16", "margin": None}
    sweep.run("bf16", around(6))
    failed = sweep.run("awq", around(6), state="failed")
    never = sweep.run("gptq8", [], state="missing")
    strange = sweep.run("gptq4", around(6), saw_image=False)
    nothing = sweep.run("fp8", [None] * SHOTS)
    sweep.run("bf16", around(6), task="u", state="failed")
    without = sweep.run("awq", around(6), task="u")
    alone = sweep.run("awq", around(6), task="v")
    out, _, paired = sweep.close(capsys)
    assert {name: row["verdict"] for name, row in paired.items()} == {
        failed: "the run is failed: CUDA out of memory",
        never: "the run is missing",
        strange: "another judge, or another prompt of the judge, than the baseline's",
        nothing: "cannot say: no judged answer in common with the baseline",
        without: "cannot say: the baseline is failed",
        alone: "cannot say: statistics.baseline=quant=bf16: no run matches, among those of task v and model m",
    }
    assert {row["difference"] for row in paired.values()} == {""}


def test_what_cannot_be_compared_is_said(sweep, capsys):
    sweep.statistics = {"baseline": "quant=bf16", "margin": None}
    sweep.run("bf16", [None] * SHOTS)
    assert "statistics.baseline=quant=bf16: no run is judged, nothing to compare" in sweep.close(capsys)[0]
    sweep.run("bf16", around(6))
    assert "  no other run to compare" in sweep.close(capsys)[0]
    sweep.statistics = {"baseline": None, "margin": 0.03}
    assert "statistics.margin: nothing was compared, there is no statistics.baseline" in sweep.close(capsys)[0]


# ----------------------------------------------------------------------------------------------------- through vlm-eval


def test_it_changes_no_answer_and_so_no_hash():
    asked = ("statistics.baseline='quant=bf16'", "statistics.margin=0.03")
    assert config.hash8(["quant=awq", *asked]) == config.hash8(["quant=awq"])
    cfg = composed(*asked)
    assert dict(cfg.statistics) == {"baseline": "quant=bf16", "margin": 0.03}
    assert inputs(cfg) == inputs(composed())


@pytest.fixture
def replayed(vlm_eval_cli, tmp_path):
    """A replay of three candidates as a sweep; GPTQ has no answer to the last question."""
    data = make_data(tmp_path / "data", count=7)
    texts = {"M": "Чат", "M-AWQ": "Чат", "M-GPTQ-Int4": "Окно с чатом"}
    rows = [
        {"model_name": m, "item_id": item, "repeat": 0, "candidate": "" if m == "M-GPTQ-Int4" and item == "g" else text}
        for m, text in texts.items()
        for item in "abcdefg"
    ]
    table = write_table(tmp_path / "answers.csv", [{**row, "time_s": 1} for row in rows])
    fixed = ("engine=replay_seed", f"engine.path={table}", f"task.data.root={data}", "metrics=[tech]", "tracking=none")

    def run(*more, candidate="all"):
        of_sweep = ("-m", "task=vqa", f"engine.candidate={candidate}", "hydra.sweep.dir=sweep")
        return vlm_eval_cli(*of_sweep, *fixed, *(more or ("judge=none",)))

    return run


def test_a_sweep_with_a_baseline(replayed):
    ended = replayed("judge=rubric", "statistics.baseline=quant=bf16", "statistics.margin=0.05")
    assert ended.code == 0, ended.err
    table, paired = by_run(Path("sweep/comparison.csv")), by_run(Path("sweep/paired.csv"))
    assert [(r["model"], r["quant"], r["task"]) for r in table.values()] == [
        ("M", "bf16", "vqa"),
        ("M", "awq", "vqa"),
        ("M", "gptq4", "vqa"),
    ]
    assert {r["judge/match_ratio_common_n"] for r in table.values()} == {"6"} and "of common answers" in ended.out
    assert not {key for row in table.values() for key in row if key.startswith("statistics")}
    awq, gptq = paired.values()
    assert awq["verdict"] == "no difference in any of 7 screenshots" and gptq["verdict"].startswith("lower: ")
    assert gptq["n"] == "6" and f"  {gptq['run']}: {gptq['verdict']}" in ended.out.splitlines()
    before = Path("sweep/paired.csv").read_text()
    Path("sweep/paired.csv").unlink()
    again = replayed("judge=rubric", "sweep.resume=sweep")  # a resume that does not say it again
    assert again.code == 0 and Path("sweep/paired.csv").read_text() == before


@pytest.mark.parametrize(
    "asked, said",
    [
        (("statistics.baseline=quant=fp8",), "statistics.baseline=quant=fp8: no run matches, among those of task"),
        (("statistics.baseline=model=M",), "statistics.baseline=model=M: 3 runs match, add a KEY=VALUE"),
        (("statistics.baseline=quant=bf16,model=M2",), "statistics.baseline=quant=bf16,model=M2: no run matches"),
        (("statistics.baseline='quant=fp8'",), "statistics.baseline=quant=fp8: no run matches"),
        (("statistics.baseline=bf16",), "statistics.baseline: 'bf16' is not KEY=VALUE[,KEY=VALUE]"),
        (("statistics.margin=0",), "statistics.margin=0: a margin is above 0"),
        (("statistics.margin=nan",), "statistics.margin=nan: a margin is above 0"),
        (("statistics.marign=1",), "did you mean margin?"),
    ],
)
def test_a_wrong_baseline_is_said_before_anything_starts(replayed, asked, said):
    ended = replayed("judge=none", *asked)
    assert ended.code == 2 and said in ended.err and not Path("sweep").exists(), ended.err


def test_a_resume_of_some_points_finds_the_baseline_among_the_others(replayed):
    assert replayed("judge=rubric").code == 0
    some = ("judge=rubric", "sweep.resume=sweep")
    ended = replayed(*some, "statistics.baseline=quant=bf16", candidate="M-AWQ")
    assert ended.code == 0, ended.err
    assert len(by_run(Path("sweep/paired.csv"))) == 2
    ended = replayed(*some, "statistics.baseline=quant=fp8", candidate="M-AWQ")
    assert ended.code == 2 and "no run matches" in ended.err


def test_the_last_line_counts_apart_how_runs_ended():
    states = ["ok", "failed", "missing", "interrupted", "ok", "failed"]
    assert ended_as(states) == "2 of 6 runs ok, 2 failed, 1 interrupted, 1 not begun"
    assert ended_as(["ok"]) == "1 of 1 runs ok"


def test_it_goes_to_mlflow_with_the_sweep(sweep, tmp_path):
    from vlm_eval.tracking.client import client_of
    from vlm_eval.tracking.mlflow import Mlflow, MlflowConfig

    tracker = Mlflow(MlflowConfig("", uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts")))
    for quant in ("bf16", "awq"):
        sweep.run(quant, around(6))
    parent = tracker.begin_sweep(sweep.sweep, str(sweep.root))
    asked = {"mlflow_run_id": parent, "statistics": {"baseline": "quant=bf16"}}
    close(sweep.root, sweep.sweep | asked, tracker)
    there = {file.path for file in client_of(f"sqlite:///{tmp_path}/mlflow.db").list_artifacts(parent)}
    assert there == {"sweep.json", "config.yaml", "report", "comparison.csv", "paired.csv"}
