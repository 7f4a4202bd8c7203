"""engine=replay: recorded answers from tables, run folders and MLflow runs go through the same stages."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from vlm_eval.store import RunFolder, read_json

from .helpers import FAULTY, make_data, write_table

REPLAY = ("metrics=[tech,rouge]", "judge=none", "tracking=none")
ANSWERS = [  # two candidates, two repeats, three items; what went wrong differs
    {"model": m, "item_id": i, "repeat": r, "text": f"Чат {i} {r} {m}", "latency_s": 0.5 + r, "note": "x"}
    for m in ("First-AWQ", "Second")
    for i in "abc"
    for r in (0, 1)
]


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture
def replay(vlm_eval_cli, data):
    """`replay(table, *more) -> (code, out, err)`, with the data of the fixture."""

    def run(path, *more, sweep=False, engine="replay"):
        fixed = (f"engine={engine}", f"engine.path={path}", "task=vqa", f"task.data.root={data}", *REPLAY)
        return vlm_eval_cli(*(("-m",) if sweep else ()), *fixed, *more)

    return run


def sweep_dir() -> Path:
    [folder] = Path("multirun").iterdir()
    return folder


def runs() -> dict[str, RunFolder]:
    folder = sweep_dir()
    return {p.parent.name: RunFolder(p.parent) for p in folder.glob("*/status.json")}


def the_run() -> RunFolder:
    [run] = runs().values()
    return run


def write(path: Path, rows: list[dict]) -> Path:
    frame = pd.DataFrame(rows)
    writers = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".jsonl": lambda: path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)),
        ".xlsx": lambda: frame.to_excel(path, index=False),
        ".parquet": lambda: frame.to_parquet(path, index=False),
    }
    writers[path.suffix]()
    return path


# --------------------------------------------------------------------------------------------------------------- tables


def without_address(run: RunFolder, kind: str = "answers") -> list:
    """The rows but for what is the replaying run's own: the address of what each follows from, its batch."""
    own = {"inputs": None} | ({"batch": None, "finished_s": None} if kind == "answers" else {})
    return [dataclasses.replace(row, **own) for row in run.read(kind)]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".xlsx", ".parquet"])
def test_answers_and_times_of_a_table(tmp_path, replay, ending):
    table = write(tmp_path / f"old{ending}", [r for r in ANSWERS if r["model"] == "Second"])
    ended = replay(table)
    assert ended.code == 0, ended.err
    run = the_run()
    answers = run.read("answers")
    assert {(a.item_id, a.repeat): a.text for a in answers} == {
        (i, r): f"Чат {i} {r} Second" for i in "abc" for r in (0, 1)
    }
    assert {a.cluster for a in answers} == {"a.png", "b.png", "c.png"}
    assert sorted((x.item_id, x.repeat, x.latency_s, x.chars) for x in run.read("latency")) == [
        (i, r, 0.5 + r, len(f"Чат {i} {r} Second")) for i in "abc" for r in (0, 1)
    ]
    summary = run.summary()
    assert summary["tech/latency_s_mean"] == pytest.approx(1.0)
    assert summary["tech/latency_s_mean_n"] == 6
    assert summary["tech/failed_rate"] == 0
    # What this process took is not what the model took.
    assert not {"tech/host_peak_gib", "tech/generation_wall_s", "tech/output_tokens_per_s"} & set(summary)
    assert run.provenance()["engine"]["replayed_from"] == str(table)


def test_all_candidates_of_a_file_become_a_sweep(tmp_path, replay):
    ended = replay(write(tmp_path / "old.csv", ANSWERS), "engine.candidate=all", sweep=True)
    assert ended.code == 0, ended.err
    found = runs()
    assert sorted(name.rpartition("-")[0] for name in found) == ["First-awq-vqa", "Second-recorded-vqa"]
    for run in found.values():
        model = "First-AWQ" if "First" in run.path.name else "Second"
        assert {a.text.rpartition(" ")[2] for a in run.read("answers")} == {model}
    with open(sweep_dir() / "comparison.csv", encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [r["engine.candidate"] for r in rows] == ["First-AWQ", "Second"]
    assert all(float(r["tech/length_chars_mean"]) for r in rows)
    assert f"Report: {sweep_dir()}/report/index.html" in ended.out
    assert "First-AWQ" in (sweep_dir() / "report" / "index.html").read_text(encoding="utf-8")


def test_a_candidate_with_odd_letters_in_its_name(tmp_path, replay):
    name = "it's, a={b} [c] \\ d"
    rows = [{**r, "model": name} for r in ANSWERS if r["model"] == "Second"]
    ended = replay(write(tmp_path / "old.jsonl", [*rows, *ANSWERS]), "engine.candidate=all", sweep=True)
    assert ended.code == 0, ended.err
    assert len(runs()) == 3
    assert name in {_candidate(run) for run in runs().values()}


def _candidate(run: RunFolder) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.load(run.path / ".hydra" / "config.yaml").engine.candidate


def test_replayed_names_are_the_candidates(tmp_path, replay):
    replay(write(tmp_path / "old.csv", ANSWERS), "engine.candidate=First-AWQ", "tracking=mlflow_local")
    from vlm_eval.tracking.client import client_of

    run = client_of("sqlite:///mlruns/mlflow.db").get_run(the_run().status()["mlflow_run_id"])
    assert (run.data.tags["model"], run.data.tags["quant"], run.data.tags["engine"]) == ("First", "awq", "replay")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "no answer in the table: the cell is empty"),
        ("  \n", "no answer in the table: the cell is empty"),
        ("NaN", "no answer in the table: the cell says NaN"),
        (None, "no answer in the table: the cell is empty"),
        (float("nan"), "no answer in the table: the cell is empty"),
    ],
)
def test_an_answer_that_is_missing_is_a_failed_answer(tmp_path, replay, text, reason):
    rows = [{"item_id": i, "text": "Чат"} for i in "ab"] + [{"item_id": "c", "text": text, "latency_s": 9.0}]
    path = tmp_path / ("old.jsonl" if text is not text or text is None else "old.csv")
    ended = replay(write(path, rows))
    assert ended.code == 0, ended.err
    run = the_run()
    [bad] = [a for a in run.read("answers") if a.item_id == "c"]
    assert (bad.text, bad.error) == (None, reason)
    [score] = [s for s in run.read("scores") if s.item_id == "c"]
    assert score.values == {} and score.unscored == {"tech": "no answer", "rouge": "no answer"}
    summary = run.summary()
    assert summary["tech/failed_rate"] == pytest.approx(1 / 3)
    assert summary["rouge/rouge1_f_mean_n"] == 2
    assert "tech/truncated_rate" not in summary  # the table does not say why an answer ended
    assert "tech/latency_s_mean" not in summary  # the time of an answer that is none says nothing


def test_an_answer_that_is_not_recorded_at_all(tmp_path, replay):
    ended = replay(write(tmp_path / "old.csv", [{"item_id": i, "text": "Чат"} for i in "ab"]))
    assert ended.code == 0, ended.err
    [bad] = [a for a in the_run().read("answers") if a.text is None]
    assert (bad.item_id, bad.error) == ("c", "no answer recorded in old.csv")


def test_an_answer_that_is_a_number_is_its_text(tmp_path, replay):
    rows = [{"item_id": "a", "text": 404}, {"item_id": "b", "text": None}, {"item_id": "c", "text": "Чат"}]
    ended = replay(write(tmp_path / "old.jsonl", rows))
    assert ended.code == 0, ended.err
    assert [a.text for a in the_run().read("answers")] == ["404", None, "Чат"]


def test_an_error_that_the_table_tells(tmp_path, replay):
    rows = [{"item_id": i, "text": "Чат", "error": "out of memory" if i == "b" else ""} for i in "abc"]
    replay(write(tmp_path / "old.csv", rows))
    assert {a.item_id: a.error for a in the_run().read("answers")} == {"a": None, "b": "out of memory", "c": None}


def test_another_tables_columns_are_mapped(tmp_path, replay):
    rows = [{"id": i, "said": "Чат", "k": 3} for i in "abc"]
    mapping = ("engine.columns.item_id=id", "engine.columns.text=said", "engine.columns.repeat=k")
    ended = replay(write(tmp_path / "old.csv", rows), *mapping)
    assert ended.code == 0, ended.err
    assert {(a.item_id, a.repeat) for a in the_run().read("answers")} == {("a", 3), ("b", 3), ("c", 3)}


def test_a_changed_table_is_work_again(tmp_path, replay, data):
    table = write(tmp_path / "old.csv", [{"item_id": i, "text": "Чат"} for i in "abc"])
    assert replay(table, "hydra.run.dir=run").code == 0
    assert "done already" in replay(table, "hydra.run.dir=run").err
    write(table, [{"item_id": i, "text": "Форма"} for i in "abc"])
    ended = replay(table, "hydra.run.dir=run")
    assert ended.code == 0 and "done already" not in ended.err
    run = RunFolder("run")
    assert [a.text for a in run.read("answers")] == ["Форма"] * 3
    assert run.summary()["tech/length_chars_mean"] == 5


# -------------------------------------------------------------------------------------------------- the study's tables


def seed_vqa(root: Path) -> Path:
    """A data set in the study's VQA layout: pc/1.png and phone/1.png, two questions each."""
    for device in ("pc", "phone"):
        (root / "screenshots" / device).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red" if device == "pc" else "blue").save(root / "screenshots" / device / "1.png")
    rows = [
        {"file": f"{device}/1.png", "question": f"Вопрос {n}?", "answer": f"Ответ {n}", "device": device}
        for device in ("pc", "phone")
        for n in (1, 2)
    ]
    write_table(root / "questions.csv", rows)
    return root


@pytest.mark.parametrize("name", ["{device}/1.png", "1.png", "1", "{device}/1"])
def test_a_recorded_vqa_table(tmp_path, vlm_eval_cli, name):
    """The columns of the recorded annotation table plus question and device; no repeat; the data beside the table."""
    root = seed_vqa(tmp_path / "vqa")
    rows = [
        {
            "model_name": "Qwen2-VL-7B-Instruct-AWQ",
            "image": name.format(device=device),
            "question": f"Вопрос {n}?",
            "device": device,
            "candidate": f"{device} {n}",
            "reference": "не отсюда",
            "time_s": 1.5,
            "rationale": "…",
        }
        for device in ("phone", "pc")
        for n in (2, 1)
    ]
    table = write_table(root / "recorded_answers.csv", rows)
    ended = vlm_eval_cli(
        "engine=replay_seed", f"engine.path={table}", "engine.candidate=Qwen2-VL-7B-Instruct-AWQ", "task=vqa", *REPLAY
    )
    assert ended.code == 0, ended.err
    run = the_run()
    assert run.path.name.startswith("Qwen2-VL-7B-Instruct-awq-vqa-")
    answers = run.read("answers")
    assert {a.item_id: a.text for a in answers} == {
        f"{device}/1.png#Вопрос {n}?": f"{device} {n}" for device in ("pc", "phone") for n in (1, 2)
    }
    assert {a.repeat for a in answers} == {0}
    assert run.summary()["tech/latency_s_mean"] == 1.5


def test_a_name_that_fits_two_screenshots_belongs_to_none(tmp_path, vlm_eval_cli):
    root = seed_vqa(tmp_path / "vqa")
    row = {"model_name": "M", "image": "1.png", "question": "Вопрос 1?", "candidate": "да", "time_s": 1}
    table = write_table(root / "recorded_answers.csv", [row])
    ended = vlm_eval_cli("engine=replay_seed", f"engine.path={table}", "task=vqa", *REPLAY)
    assert ended.code == 2
    assert "1 of 1 answers are about items" in ended.err and "'1.png Вопрос 1?' (row 2)" in ended.err


# ------------------------------------------------------------------------------------------------- runs, sweeps, MLflow


@pytest.fixture
def old_sweep(vlm_eval_cli, data):
    ended = vlm_eval_cli(
        *("-m", *FAULTY, "quant=awq,bf16", "task=vqa", f"task.data.root={data}", "task.repeats=2"),
        *("engine.latency_items=2", "metrics=tech", "judge=none", "tracking=mlflow_local", "hydra.sweep.dir=old"),
    )
    assert ended.code == 0, ended.err
    return Path("old").resolve()


def test_a_run_folder_and_its_data(old_sweep, vlm_eval_cli):
    [old] = [RunFolder(p) for p in old_sweep.iterdir() if "-awq-" in p.name]
    ended = vlm_eval_cli("engine=replay", f"engine.path={old.path}", "task=vqa", *REPLAY)  # no task.data.root
    assert ended.code == 0, ended.err
    new = the_run()
    assert new.path.name.startswith("demo-awq-vqa-")
    assert without_address(new) == without_address(old)
    assert without_address(new, "latency") == without_address(old, "latency")
    before, after = old.summary(), new.summary()
    assert {k: after[k] for k in before} == before  # memory and wall time are the old run's
    assert "rouge/rouge1_f_mean" in after


def test_a_sweep_folder_is_scored_again_as_a_whole(old_sweep, vlm_eval_cli):
    ended = vlm_eval_cli("-m", "engine=replay", f"engine.path={old_sweep}", "engine.candidate=all", "task=vqa", *REPLAY)
    assert ended.code == 0, ended.err
    assert sorted(name.rpartition("-")[0] for name in runs()) == ["demo-awq-vqa", "demo-bf16-vqa"]


def test_an_mlflow_run(old_sweep, vlm_eval_cli, tmp_path, monkeypatch):
    [old] = [RunFolder(p) for p in old_sweep.iterdir() if "-awq-" in p.name]
    run_id = old.status()["mlflow_run_id"]
    ended = vlm_eval_cli("engine=replay", f"engine.path={run_id}", "task=vqa", *REPLAY[:2])
    assert ended.code == 0, ended.err
    assert without_address(the_run()) == without_address(old)
    # From a folder that has no store: the store is named, and with it the data are found.
    monkeypatch.chdir(tmp_path)
    ended = vlm_eval_cli(
        *("engine=replay", f"engine.path={run_id}", "task=vqa", *REPLAY),
        f"engine.tracking_uri=sqlite:///{old_sweep.parent}/mlruns/mlflow.db",
    )
    assert ended.code == 0, ended.err
    monkeypatch.chdir(old_sweep.parent)
    # A sweep's parent run has no answers of its own.
    parent = read_json(old_sweep / "sweep.json")["mlflow_run_id"]
    ended = vlm_eval_cli("engine=replay", f"engine.path={parent}", "task=vqa", *REPLAY[:2])
    assert ended.code == 2 and "give the id of a run, not of a sweep" in ended.err


def test_answers_about_another_picture_are_refused(old_sweep, vlm_eval_cli, data):
    [old] = [p for p in old_sweep.iterdir() if "-awq-" in p.name]
    Image.new("RGB", (64, 48), "green").save(data / "images" / "b.png")
    ended = vlm_eval_cli("engine=replay", f"engine.path={old}", "task=vqa", *REPLAY)
    assert ended.code == 2 and "item b was answered about another picture than images/b.png" in ended.err


def test_answers_of_another_task_are_refused(old_sweep, vlm_eval_cli):
    [old] = [p for p in old_sweep.iterdir() if "-awq-" in p.name]
    ended = vlm_eval_cli("engine=replay", f"engine.path={old}", "task=screen_annotation", *REPLAY)
    assert ended.code == 2 and "answers of task=vqa, this is task=screen_annotation; give task=vqa" in ended.err


# ------------------------------------------------------------------------------------------------------------ bad input

GOOD = [{"item_id": i, "text": "Чат"} for i in "abc"]
TWO = [{**row, "model": model} for model in ("M", "N") for row in GOOD]


@pytest.mark.parametrize(
    "rows, more, said",
    [
        ([{"item_id": "a", "answer": "Чат"}], (), "no column 'text' (for text); engine.columns.text=NAME names it"),
        (GOOD, ("engine.columns.latency_s=time",), "no column 'time' (for latency_s)"),
        (GOOD, ("+engine.columns.colour=x",), "engine.columns.colour: no such field; there are model, item_id"),
        ([{"text": "Чат"}], (), "no column says which item is answered"),
        (GOOD + GOOD[1:2], (), "row 3 and row 5 both answer item 'b', repeat 0"),
        ([*GOOD, {"item_id": "z", "text": "Чат"}], (), "1 of 4 answers are about items that task.data.root="),
        ([{**GOOD[0], "repeat": "first"}], (), "row 2: repeat is 'first', not a number"),
        ([{**GOOD[0], "repeat": 0.5}], (), "row 2: repeat is '0.5', not a whole number"),
        ([{**GOOD[0], "latency_s": "fast"}], (), "row 2: latency_s is 'fast', not a number"),
        ([{**GOOD[0], "latency_s": -1}], (), "row 2: latency_s is '-1'; seconds are not negative"),
        (TWO, (), "holds 2 candidates; give engine.candidate=NAME, or engine.candidate=all with -m: M, N"),
        (TWO, ("engine.candidate=O",), "engine.candidate=O: not in"),
        (TWO, ("engine.candidate=all",), "engine.candidate=all: a sweep over all candidates; it needs -m"),
        (GOOD, ("engine.candidate=M",), "it has no column 'model'"),
    ],
)
def test_a_bad_table_is_one_line_before_anything_starts(tmp_path, replay, rows, more, said):
    ended = replay(write(tmp_path / "old.csv", rows), *more)
    assert ended.code == 2
    assert said in ended.err and len(ended.err.splitlines()) == 1
    assert not Path("multirun").exists()


@pytest.mark.parametrize(
    "content, name, said",
    [
        ("item_id,text\na,Чат\n".encode("cp1251"), "old.csv", "not UTF-8"),
        ("item_id,text\na,Чат\n".encode() + "b,Да\n".encode("cp1251"), "old.csv", "not UTF-8"),
        (b'{"item_id": "a", "text": "x"}\n{"item_id": \n', "old.jsonl", "line 2 is not JSON"),
        (b"[1]\n", "old.jsonl", "line 1 is no JSON object"),
        (b"", "old.csv", "the table is empty"),
        (b"item_id,text\n", "old.csv", "the table has no rows"),
        (b"x", "old.txt", "neither a table (.csv, .jsonl, .xlsx, .parquet) nor a run folder"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, replay, content, name, said):
    (tmp_path / name).write_bytes(content)
    ended = replay(tmp_path / name)
    assert ended.code == 2
    assert said in ended.err and len(ended.err.splitlines()) == 1


def test_paths_that_are_not_there(tmp_path, replay):
    assert "no such table" in replay(tmp_path / "gone.csv").err
    (tmp_path / "empty").mkdir()
    assert "no answers.jsonl there; it is no run folder" in replay(tmp_path / "empty").err
    unknown = replay("0" * 32, "tracking=mlflow_local")
    assert unknown.code == 2 and "engine.path=" + "0" * 32 in unknown.err


def test_candidate_all_of_a_table_without_candidates(tmp_path, replay):
    ended = replay(write(tmp_path / "old.csv", GOOD), "engine.candidate=all", sweep=True)
    assert ended.code == 2 and "has no column 'model' to tell them by" in ended.err


# ----------------------------------------------------------------------------------------------------- not comparable


def test_runs_whose_numbers_have_different_makers_are_flagged():
    from vlm_eval.comparison import Run, not_comparable, not_scored

    def run(folder, backend, **why):
        return Run(folder, "ok", None, {}, {}, {"language.backend": backend}, why)

    assert not_comparable([run("a", "pylat-ru 0.1"), run("b", "pylat-ru 0.1")]) == []
    assert not_comparable([run("a", "pylat-ru 0.1"), run("b", "pylat-ru 0.1"), run("c", "LanguageTool 6.8")]) == [
        "language: not comparable between all runs, language.backend differs: pylat-ru 0.1 (2 runs), "
        "LanguageTool 6.8 (1 runs)"
    ]
    # One that scored nothing is not compared, but said.
    unscored = run("c", "LanguageTool 6.8", language="unreachable")
    assert not_comparable([run("a", "pylat-ru 0.1"), unscored]) == []
    assert not_scored([run("a", "x"), unscored]) == ["language: not scored in 1 of 2 runs: unreachable"]
