"""reference.run: another run's answers are what a candidate's are held against."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from vlm_eval import config, preflight, references
from vlm_eval.errors import BadInput
from vlm_eval.progress import Reporter
from vlm_eval.run import run
from vlm_eval.store import RunFolder, write_json

from .helpers import composed, make_data, write_table
from .judges.server import KEY, Server, case_of, fair

ANSWERS = {(item, repeat): f"Эталон {item} {repeat}" for item in "abc" for repeat in (0, 1)}


@pytest.fixture
def make(tmp_path):
    """`make(name, answers, *overrides) -> RunFolder`: a run of the three items, of answers {(item, repeat): text}."""
    data = make_data(tmp_path / "data")

    def made(name: str, answers: dict, *more: str) -> RunFolder:
        rows = [{"item_id": i, "repeat": r, "text": text or ""} for (i, r), text in answers.items()]
        table = write_table(tmp_path / f"{name.replace('/', '_')}.csv", rows)
        given = ("engine=replay", f"engine.path={table}", "task=vqa", f"task.data.root={data}")
        fixed = ("metrics=[tech,rouge]", "judge=none", "tracking=none")
        cfg = composed(*given, *fixed, *more)
        folder = RunFolder(tmp_path / name)
        (folder.path / ".hydra").mkdir(parents=True)
        OmegaConf.save(cfg, folder.path / ".hydra" / "config.yaml")
        folder.set_status("running", "start")
        run(cfg, folder, Reporter(None))
        return folder

    return made


@pytest.fixture
def asked(tmp_path, make):
    """`asked(*overrides)`: the config of a run that would take its references elsewhere."""
    fixed = ("model=api", "model.litellm=openai/NAME", "engine.api_key_env=null", "task=vqa", "judge=none")
    data = f"task.data.root={tmp_path / 'data'}"
    return lambda *more: composed(*fixed, data, "metrics=[tech,rouge]", "tracking=none", *more)


def texts(cfg) -> dict:
    items, _ = references.read_items(cfg, config.build(cfg.task))
    return {item.item_id: item.reference for item in items}


def refusal(cfg) -> str:
    with pytest.raises(BadInput) as error:
        preflight.check(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------------- whose answers count


def test_by_default_the_data_sets_own(asked):
    cfg = asked()
    assert texts(cfg) == dict.fromkeys("abc", "Чат")
    assert references.read_items(cfg, config.build(cfg.task))[1] == {}


def test_a_runs_answers_are_what_rouge_compares_with(make):
    old = make("old", ANSWERS)
    assert old.summary()["rouge/rouge1_f_mean"] == 0  # against "Чат"
    new = make("new", {(i, 0): f"Эталон {i} 0" for i in "abc"}, f"reference.run={old.path}")
    assert new.summary()["rouge/rouge1_f_mean"] == 1
    assert {i.item_id: i.reference for i in new.read("items")} == {i: f"Эталон {i} 0" for i in "abc"}
    assert {i.no_reference for i in new.read("items")} == {None}


def test_provenance_says_whose_they_are(make):
    old = make("old", ANSWERS)
    facts = make("new", ANSWERS, f"reference.run={old.path}").provenance()
    assert facts["reference_from"] == str(old.path) and facts["reference_by"] == "old, recorded"
    other = make("other", ANSWERS, f"reference.run={old.path}", "reference.repeat=1").provenance()
    assert len(facts["reference_sha256"]) == 64 and facts["reference_sha256"] != other["reference_sha256"]
    assert not {"reference_from", "reference_sha256"} & set(old.provenance())


def test_a_judge_is_shown_them(make, monkeypatch, tmp_path):
    old, server = make("old", ANSWERS), Server()
    server.script = lambda number, body: (200, fair(body))
    monkeypatch.setenv("JUDGE_TEST_KEY", KEY)
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "cache"))
    judge = ("judge=server", "judge.model=openai/NAME", f"judge.api_base={server.url}", "judge.order=random")
    make("new", {(i, 0): "Да" for i in "abc"}, f"reference.run={old.path}", *judge, "judge.api_key_env=JUDGE_TEST_KEY")
    server.http.shutdown()
    server.http.server_close()
    shown = [{case_of(body)[0]["answer_a"], case_of(body)[0]["answer_b"]} for body in server.bodies]
    assert sorted(map(sorted, shown)) == sorted(sorted({"Да", f"Эталон {i} 0"}) for i in "abc")


def test_the_first_repeat_that_has_a_text_or_the_one_asked_for(make, asked):
    old = make("old", {**ANSWERS, ("b", 0): None})
    assert texts(asked(f"reference.run={old.path}")) == {"a": "Эталон a 0", "b": "Эталон b 1", "c": "Эталон c 0"}
    second = asked(f"reference.run={old.path}", "reference.repeat=1")
    assert texts(second) == {i: f"Эталон {i} 1" for i in "abc"}
    first = asked(f"reference.run={old.path}", "reference.repeat=0")
    assert texts(first) == {"a": "Эталон a 0", "b": None, "c": "Эталон c 0"}  # nor the data's own in its place


def test_an_item_that_run_failed_on_has_no_reference_and_says_why(make, asked):
    old = make("old", {**ANSWERS, ("b", 0): None, ("b", 1): None})
    said = "1 of 3 items have no reference; b: the run that gives the references has none: no answer in the table"
    [sentence] = [s for s in preflight.check(asked(f"reference.run={old.path}")).not_scored if "reference" in s]
    assert sentence.startswith(said)

    new = make("new", ANSWERS, f"reference.run={old.path}")
    [without] = [i for i in new.read("items") if i.reference is None]
    assert without.item_id == "b" and "no answer in the table: the cell is empty" in without.no_reference
    scores = {(s.item_id, s.repeat): s for s in new.read("scores")}
    assert "rouge" in scores["b", 0].unscored and "rouge" not in scores["a", 0].unscored
    assert new.summary()["rouge/rouge1_f_mean_n"] == 4


# ------------------------------------------------------------------------------------------------------ where they lie


@pytest.fixture
def sweep(make, tmp_path):
    """A sweep's folder of two runs, and a third that never began."""
    for name in ("one", "two"):
        make(f"sweep/{name}", {(i, 0): f"{name} {i}" for i in "abc"})
    names = ("one", "two", "never")
    write_json(tmp_path / "sweep" / "sweep.json", {"points": [{"folder": n, "overrides": []} for n in names]})
    return tmp_path / "sweep"


def test_a_run_of_a_sweep(sweep, asked):
    found = texts(asked(f"reference.run={sweep}", "reference.candidate=two"))
    assert found == {i: f"two {i}" for i in "abc"}
    assert refusal(asked(f"reference.run={sweep}")) == f"reference.run={sweep}: a sweep; give reference.candidate=RUN"
    for name in ("three", "never"):
        said = refusal(asked(f"reference.run={sweep}", f"reference.candidate={name}"))
        assert said == f"reference.candidate={name}: no such run in {sweep}; it has one, two"


def test_an_mlflow_run(make, asked, tmp_path):
    store = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    old = make("old", ANSWERS, "tracking=mlflow_local", store, f"tracking.artifacts={tmp_path}/artifacts")
    run_id = old.status()["mlflow_run_id"]
    tracked = ("tracking=mlflow_local", store)
    cfg = asked(f"reference.run={run_id}", *tracked)
    assert texts(cfg) == {i: f"Эталон {i} 0" for i in "abc"}
    assert references.read_items(cfg, config.build(cfg.task))[1]["reference_from"] == run_id
    assert refusal(asked(f"reference.run={run_id}")).startswith(
        f"reference.run={run_id}: a MLflow run id needs reference.tracking_uri"
    )
    unknown = "0" * 32
    assert refusal(asked(f"reference.run={unknown}", *tracked)).startswith(f"reference.run={unknown}: not to be had")


# ------------------------------------------------------------------------------------------------- what cannot be meant


def test_another_reference_is_work_again(make, asked, tmp_path):
    old = make("old", ANSWERS)
    cfg = asked(f"reference.run={old.path}")
    task = config.build(cfg.task)
    from vlm_eval.engines.base import engine_of
    from vlm_eval.provenance import inputs_hash

    def made_of():
        return inputs_hash(cfg, task, engine_of(cfg, task), references.read_items(cfg, task)[0])

    before = made_of()
    assert preflight.check(cfg, str(tmp_path / "new")).made_from == before
    rows = old.read("answers")
    old.replace("answers", [type(a)(**{**vars(a), "text": "Другое"}) for a in rows])
    assert preflight.check(cfg, str(tmp_path / "new")).made_from == made_of() != before


def test_another_picture_under_the_same_name_is_refused(make, asked, tmp_path):
    old = make("old", ANSWERS)
    Image.new("RGB", (64, 48), "green").save(tmp_path / "data" / "images" / "b.png")
    said = refusal(asked(f"reference.run={old.path}"))
    assert said == f"reference.run={old.path}: item b was answered about another picture than images/b.png"


def test_another_question_under_the_same_name_is_refused(make, asked, tmp_path):
    old = make("old", ANSWERS)
    table = tmp_path / "data" / "items.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("экране c", "экране d"), encoding="utf-8")
    assert "item c was answered to another question than 'Что на экране d?'" in refusal(
        asked(f"reference.run={old.path}")
    )


def test_an_item_that_run_does_not_have_is_refused_and_one_more_there_is_not(make, asked, tmp_path):
    old, table = make("old", ANSWERS), tmp_path / "data" / "items.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(lines[:3]), encoding="utf-8")
    assert set(texts(asked(f"reference.run={old.path}"))) == {"a", "b"}
    table.write_text("\n".join([*lines, "d,a.png,Что?,Чат"]), encoding="utf-8")
    assert "item d is not in that run; give one over the same data" in refusal(asked(f"reference.run={old.path}"))


def test_a_run_that_is_not_finished_is_refused(make, asked):
    old = make("old", ANSWERS)
    rows = old.read("answers")
    old.replace("answers", [a for a in rows if a.item_id != "c"])
    assert "item c has no answer in that run; is it finished?" in refusal(asked(f"reference.run={old.path}"))
    old.replace("answers", [])
    assert "nothing was answered in" in refusal(asked(f"reference.run={old.path}"))


def test_a_run_without_a_single_text_is_refused(make, asked):
    old = make("old", ANSWERS)
    old.replace("answers", [type(a)(a.item_id, a.repeat, a.cluster, None, error="oom") for a in old.read("answers")])
    assert "not one item gets a reference" in refusal(asked(f"reference.run={old.path}"))


@pytest.mark.parametrize(
    "more, said",
    [
        (["reference.run={tmp}/nowhere"], "no run folder, sweep folder or MLflow run id"),
        (["reference.run={tmp}/old.csv"], "no run folder, sweep folder or MLflow run id"),
        (["reference.run={tmp}/data"], "reference.run={tmp}/data: no answers.jsonl there; it is no run folder"),
        (["reference.run={tmp}/old", "reference.repeat=7"], "item a has no answer to repeat 7 in that run"),
        (["reference.run={tmp}/old", "task=screen_annotation"], "answers of task=vqa; this is task=screen_annotation"),
        (["reference.repeat=1"], "reference.repeat: of which run? It needs reference.run"),
        (["reference.candidate=x"], "reference.candidate: of which run? It needs reference.run"),
    ],
    ids=lambda value: value[-1].rpartition("/")[2] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(make, asked, tmp_path, more, said):
    make("old", ANSWERS)
    assert said.format(tmp=tmp_path) in refusal(asked(*(m.format(tmp=tmp_path) for m in more)))


def test_an_item_that_cannot_be_asked_needs_no_reference(make, asked, tmp_path):
    old = make("old", ANSWERS)
    (tmp_path / "data" / "images" / "b.png").write_bytes(b"no picture")
    cfg = asked(f"reference.run={old.path}", "task.on_bad_item=record")
    items, _ = references.read_items(cfg, config.build(cfg.task))
    assert [(i.item_id, bool(i.error), i.no_reference) for i in items] == [
        ("a", False, None),
        ("b", True, None),
        ("c", False, None),
    ]


# ------------------------------------------------------------------------------------------------------ generated once


def test_made_by_a_model_behind_an_api_and_used_by_a_candidate(vlm_eval_cli, monkeypatch, tmp_path):
    """One command makes the references, one option uses them: from the command line, over real HTTP."""
    server = Server()
    server.script = lambda number, body: (200, "Не приходит код из СМС")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VLM_EVAL_CACHE", str(tmp_path / "cache"))
    data = make_data(tmp_path / "data", 2)
    fixed = ("task=screen_annotation", "task.repeats=1", f"task.data.root={data}", "metrics=rouge", "tracking=none")
    gpt4o = ("model=gpt4o", f"engine.api_base={server.url}")
    made = vlm_eval_cli(*gpt4o, *fixed)
    server.http.shutdown()
    server.http.server_close()
    assert made.code == 0 and len(server.bodies) == 2, made.err
    folder = Path(made.out.strip())
    assert folder.name.startswith("gpt4o-none-screen_annotation-")

    table = write_table(tmp_path / "candidate.csv", [{"item_id": i, "text": "Не приходит код"} for i in "ab"])
    ended = vlm_eval_cli("engine=replay", f"engine.path={table}", *fixed, f"reference.run={folder}")
    assert ended.code == 0, ended.err
    scored = RunFolder(Path(ended.out.strip()))
    assert scored.summary()["rouge/rouge1_f_mean"] == pytest.approx(2 * 3 / (3 + 5))
    assert scored.provenance()["reference_by"] == "gpt-4o-2024-11-20, none"
