"""judge=recorded: the judgements of a replayed table or run, and the published study's numbers from them."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vlm_eval import config
from vlm_eval.engines import recorded
from vlm_eval.engines.matching import match
from vlm_eval.errors import BadInput
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.summary import summarise
from vlm_eval.rows import Answer, Item, Judgement, Latency
from vlm_eval.store import RunFolder

from ..helpers import FAULTY, composed, make_data, write_table
from ..metrics.data import SEED, needs_recorded


def judge_of(path, *overrides):
    return config.build(composed("engine=replay", f"engine.path={path}", "judge=recorded", *overrides).judge)


def judged(table, *overrides):
    """The judgements of a table about items a, b, ... in its rows' order."""
    judge = judge_of(table, *overrides)
    judge.check()
    with open(table, encoding="utf-8", newline="") as rows:
        cells = list(csv.DictReader(rows))
    requests = [
        JudgeRequest(Item(r["item_id"], r["item_id"], "x.png"), Answer(r["item_id"], 0, "c", r["text"]), Path("x.png"))
        for r in cells
    ]
    return [row for new in judge.judge(requests) for row in new]


# ------------------------------------------------------------------------------------------------------------ the study


@functools.cache
def study():
    """model -> (its answers, its recorded judgements), read as a sweep over engine.candidate=all would."""
    table = f"{SEED}/sa/recorded_answers.csv"
    data = ("engine=replay_seed", f"engine.path={table}", "judge=recorded", "task=screen_annotation")
    cfg = composed(*data)
    items = config.build(cfg.task).items()
    found = {}
    for model in recorded.models_of(table, cfg.engine.columns):
        judge = config.build(OmegaConf.merge(cfg.judge, {"candidate": model}))
        judge.check()
        rows, _ = match(table, recorded.read(table, cfg.engine.columns, model, None).rows, items)
        by_id = {item.item_id: item for item in items}
        answers = [Answer(i, k, by_id[i].cluster, row.answer.text) for (i, k), row in rows.items()]
        requests = [JudgeRequest(by_id[a.item_id], a, Path(by_id[a.item_id].image)) for a in answers]
        found[model] = answers, [j for new in judge.judge(requests) for j in new]
    return found


@needs_recorded
def test_the_published_ratios_come_out_in_the_published_order():
    with open(SEED / "sa" / "published_means.csv", encoding="utf-8", newline="") as table:
        published = {row["model_name"]: row for row in csv.DictReader(table)}
    ours = {model: summarise(rows, answers) for model, (answers, rows) in study().items()}
    assert len(ours) == len(published) == 8
    for name, column in (
        ("judge/match_ratio", "match_ratio_of_means"),
        ("judge/match_ratio_mean_of_ratios", "match_ratio_mean_of_ratios"),
    ):
        theirs = {model: float(row[column]) for model, row in published.items()}
        assert {m: round(s[name], 2) for m, s in ours.items()} == {m: round(v, 2) for m, v in theirs.items()}
        assert sorted(ours, key=lambda m: ours[m][name]) == sorted(theirs, key=theirs.get)
    assert {m: s["judge/match_ratio_n"] for m, s in ours.items()} == {
        m: int(row["judged_in_range"]) for m, row in published.items()
    }
    best = ours["Qwen2-VL-7B-Instruct"]
    interval = [best[f"judge/match_ratio{end}"] for end in ("", "_ci_low", "_ci_high")]
    assert [round(x, 3) for x in interval] == [0.866, 0.825, 0.907]


@needs_recorded
def test_the_studys_scores_on_another_scale_are_invalid_and_said():
    bad = [j for _, rows in study().values() for j in rows if j.status != "ok"]
    assert [j.status for j in bad] == ["invalid"] * 6
    assert all(j.candidate_score is None and j.reference_score is None and j.rationale for j in bad)
    assert "candidate_score: 34.0 is not within 1 to 10" in {j.error for j in bad}
    good = [j for _, rows in study().values() for j in rows if j.status == "ok"]
    assert len(good) == 394 and {j.order for j in good} == {"unknown"} and {j.judge for j in good} == {"recorded"}
    assert 8.75 in {j.reference_score for j in good}  # not all of its scores are whole


# ------------------------------------------------------------------------------------------------------------ the cells

GOOD = {"item_id": "a", "text": "Чат", "candidate_score": "7", "reference_score": "9", "rationale": "кратко"}


@pytest.mark.parametrize(
    "cells, status, scores, error",
    [
        ({}, "ok", (7, 9), None),
        ({"candidate_score": "7,5", "reference_score": "10.0"}, "ok", (7.5, 10), None),
        ({"candidate_score": "1"}, "ok", (1, 9), None),
        ({"candidate_score": ""}, "error", (None, None), "no judgement recorded: no candidate_score"),
        ({"candidate_score": "NaN"}, "error", (None, None), "no judgement recorded: no candidate_score"),
        ({"reference_score": " "}, "error", (None, None), "no judgement recorded: no reference_score"),
        ({"candidate_score": "34"}, "invalid", (None, None), "candidate_score: 34 is not within 1 to 10"),
        ({"reference_score": "35"}, "invalid", (None, None), "reference_score: 35 is not within 1 to 10"),
        ({"candidate_score": "0"}, "invalid", (None, None), "candidate_score: 0 is not within 1 to 10"),
        ({"candidate_score": "0.5"}, "invalid", (None, None), "candidate_score: 0.5 is not within 1 to 10"),
        ({"candidate_score": "10.01"}, "invalid", (None, None), "candidate_score: 10.01 is not within 1 to 10"),
        ({"candidate_score": "inf"}, "invalid", (None, None), "candidate_score: inf is not within 1 to 10"),
        ({"candidate_score": "семь"}, "invalid", (None, None), "candidate_score: 'семь' is not a number"),
        ({"text": ""}, "not_asked", (None, None), "no answer"),
    ],
)
def test_what_a_cell_comes_to(tmp_path, cells, status, scores, error):
    [row] = judged(write_table(tmp_path / "t.csv", [{**GOOD, **cells}]))
    assert (row.status, row.error) == (status, error)
    assert (row.candidate_score, row.reference_score) == scores
    assert row.rationale == (None if status == "not_asked" else "кратко")
    assert (row.judge, row.order, row.cost_usd, row.tokens) == ("recorded", "unknown", 0, None)


def test_judge_and_order_where_the_table_tells(tmp_path):
    rows = [{**GOOD, "judge": "gpt-4o-mini", "order": "ba"}, {**GOOD, "item_id": "b", "judge": "", "order": ""}]
    table = write_table(tmp_path / "t.csv", rows)
    assert [(j.judge, j.order) for j in judged(table)] == [("gpt-4o-mini", "ba"), ("recorded", "unknown")]
    assert list(judge_of(table).names) == ["gpt-4o-mini", "recorded"]


def test_scores_without_a_reference_are_held_against_ten(tmp_path):
    rows = [{"item_id": i, "text": "Чат", "mark": mark} for i, mark in zip("abcdef", (5, 6, 7, 8, 9, 10))]
    found = judged(write_table(tmp_path / "t.csv", rows), "engine.columns.candidate_score=mark")
    assert {j.order for j in found} == {"single"} and {j.reference_score for j in found} == {None}
    answers = [Answer(i, 0, i, "Чат") for i in "abcdef"]
    assert summarise(found, answers)["judge/match_ratio"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    "cells, more, said",
    [
        ({"item_id": "a", "text": "Чат"}, (), "has no column 'candidate_score'; engine.columns.candidate_score=NAME"),
        (GOOD, ("engine.columns.candidate_score=mark",), "no column 'mark' (for candidate_score)"),
        ({**GOOD, "order": "first"}, (), "row 2: order is 'first'; it is ab, ba, single"),
    ],
)
def test_a_table_that_will_not_do(tmp_path, cells, more, said):
    judge = judge_of(write_table(tmp_path / "t.csv", [cells]), *more)
    with pytest.raises(BadInput) as refused:
        judge.check()
    assert said in str(refused.value)


def test_an_answers_column_may_have_a_judgements_name(tmp_path):
    table = write_table(tmp_path / "t.csv", [{"item_id": "a", "rationale": "Чат"}])
    [row] = recorded.read_answers(
        str(table), {"item_id": "item_id", "text": "rationale", "rationale": "rationale"}, None
    ).rows
    assert row.answer.text == "Чат" and row.judgement == {}


# ----------------------------------------------------------------------------------------------- whole runs, other runs


def test_without_replay_there_is_nothing_recorded(vlm_eval_cli, tmp_path):
    data = make_data(tmp_path / "data")
    ended = vlm_eval_cli(
        *FAULTY, "task=vqa", f"task.data.root={data}", "judge=recorded", "metrics=tech", "tracking=none"
    )
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "judge=recorded: takes the judgements that came with replayed answers; it needs engine=replay" in ended.err


def test_a_replayed_run_is_judged_as_it_was(vlm_eval_cli, tmp_path):
    data = make_data(tmp_path / "data")
    rows = [{**GOOD, "item_id": i, "candidate_score": s} for i, s in zip("abc", ("6", "34", "9"))]
    table = write_table(tmp_path / "t.csv", rows)
    ended = vlm_eval_cli(
        *("engine=replay", f"engine.path={table}", "task=vqa", f"task.data.root={data}"),
        *("judge=recorded", "metrics=tech", "tracking=none", "hydra.run.dir=run"),
    )
    assert ended.code == 0, ended.err
    run = RunFolder("run")
    assert {j.item_id: j.status for j in run.read("judgements")} == {"a": "ok", "b": "invalid", "c": "ok"}
    summary = run.summary()
    assert summary["judge/match_ratio"] == pytest.approx(15 / 18) and summary["judge/match_ratio_n"] == 2
    assert summary["judge/fail_rate"] == pytest.approx(1 / 3) and summary["judge/cost_usd"] == 0
    provenance = run.provenance()
    assert provenance["judges"]["recorded"]["main"] is True and provenance["judge"] == {"judge_recorded": "recorded"}


def run_folder(path: Path) -> RunFolder:
    """A run of two judges with one answer that the main one judged in both orders and one that it did not."""
    folder = RunFolder(path)
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text("task: {name: vqa}\n")
    folder.append("answers", [Answer("a", 0, "a.png", "Чат"), Answer("b", 0, "b.png", "Чат")])
    folder.append("latency", [Latency("a", 1.0)])
    judgement = {"judge_repeat": 0, "saw_image": True, "rationale": "r", "status": "ok", "tokens": 9, "cost_usd": 0.5}
    folder.append(
        "judgements",
        [Judgement("a", 0, "main", o, candidate_score=6, reference_score=8, **judgement) for o in ("ab", "ba")],
    )
    folder.append("judgements", [Judgement("a", 0, "second", "ab", candidate_score=1, reference_score=1, **judgement)])
    entry = {"config": {}, "facts": {}}
    judges = {
        "second": {"main": False, "names": ["second"], **entry},
        "big": {"main": True, "names": ["main"], **entry},
    }
    folder.provenance(judges=judges, judge={"judge_model": "openai/x"})
    return folder


def test_of_a_run_folder_the_main_judges(tmp_path):
    folder = run_folder(tmp_path / "run")
    judge = judge_of(folder.path)
    judge.check()
    items = {i: Item(i, f"{i}.png", f"images/{i}.png", reference="Чат") for i in "ab"}
    requests = [JudgeRequest(items[a.item_id], a, Path("x.png")) for a in folder.read("answers")]
    found = [row for new in judge.judge(requests) for row in new]
    assert [(j.item_id, j.judge, j.order, j.status, j.candidate_score) for j in found] == [
        ("a", "main", "ab", "ok", 6),
        ("a", "main", "ba", "ok", 6),
        ("b", "main", "unknown", "error", None),
    ]
    assert {j.cost_usd for j in found} == {0.0} and found[0].saw_image
    assert judge.facts() == {"judge_model": "openai/x"} and list(judge.names) == ["main"]


def test_a_run_folder_that_nobody_judged(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder.path / "provenance.json").write_text(json.dumps({}))
    with pytest.raises(BadInput, match="has no judgements of a main judge"):
        judge_of(folder.path).check()
