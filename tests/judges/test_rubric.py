"""The rubric: scores made of facts, inventions and overlap, by the way of all judges and without any of their needs."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_eval import config, paths
from vlm_eval.errors import BadInput
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.llm import parse
from vlm_eval.judges.rubric import PROVIDER, Finding, RubricJudge, RubricJudgeConfig, reply
from vlm_eval.judges.summary import summarise
from vlm_eval.rows import Answer, Item
from vlm_eval.store import RunFolder

from ..helpers import REPO, composed, write_table

FACTS = ("Платёж не выполнен", "20 588 ₽", "30.12.2022", "E-1047")
SCREEN = "Платёж не выполнен | 20 588 ₽ | 30.12.2022, 18:42 | Код ошибки E-1047 | Комиссия 0 ₽ | Карта •• 4471"
WHOLE = "Платёж не выполнен 30.12.2022: 20 588 ₽, ошибка E-1047."
HALF = "Платёж не выполнен, ошибка E-1047."
INVENTS = "Платёж не выполнен 30.12.2022: 20 588 ₽, ошибка E-1047, списали 99 777 ₽."


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the rubric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def rubric(**changes):
    return RubricJudge(RubricJudgeConfig(**changes))


def judged(*answers, language="ru", reference=WHOLE, **item):
    """(candidate's score, reference's score, rationale) of each answer's row in order "ab"."""
    made = Item("s1", "s1", "none.png", reference=reference, **item)
    requests = [JudgeRequest(made, Answer("s1", k, "s1", text), Path("none.png")) for k, text in enumerate(answers)]
    rows = [row for new in rubric(language=language).judge(requests) for row in new]
    for row in rows:
        assert (row.judge, row.status, row.error, row.saw_image, row.tokens, row.cost_usd) == (
            *("rubric", "ok", None, False, 0, 0.0),
        )
        other = next(r for r in rows if r.repeat == row.repeat and r.order != row.order)
        assert (row.candidate_score, row.reference_score) == (other.candidate_score, other.reference_score)
    return [(r.candidate_score, r.reference_score, r.rationale) for r in rows if r.order == "ab"]


def test_facts_make_the_score_and_an_invention_costs_more_than_a_missed_fact(no_network):
    whole, half, invents = judged(WHOLE, HALF, INVENTS, facts=FACTS, screen_text=SCREEN)
    assert whole[:2] == (10, 10)
    assert half[0] == 6  # 1 + 9 * 2/4, rounded
    assert invents[0] == 6  # all facts, and one of five amounts, dates and codes invented: 1 + 9 * (1 - 2 * 1/5)
    [one_missed] = judged("Платёж не выполнен: 20 588 ₽, ошибка E-1047.", facts=FACTS, screen_text=SCREEN)
    assert one_missed[0] == 8


def test_the_rationale_lists_what_was_found_missed_and_invented():
    [(_, _, said)] = judged("Платёж не выполнен, списали 99 777 ₽.", facts=FACTS, screen_text=SCREEN)
    assert said.splitlines() == [
        "Ответ A — 1; найдено фактов 1 из 4: «Платёж не выполнен»; пропущено: «20 588 ₽», «30.12.2022», «E-1047»; "
        "выдумано 1 из 1: «99 777 ₽».",
        "Ответ B — 10; найдено фактов 4 из 4: «Платёж не выполнен», «20 588 ₽», «30.12.2022», «E-1047»; "
        "выдумано 0 из 3: —.",
        "Выдуманным считается то, чего нет ни на экране, ни в вопросе.",
    ]
    [(_, _, english)] = judged(HALF, language="en", facts=FACTS, screen_text=SCREEN)
    assert english.startswith("Answer A: 6; facts found 2 of 4: ") and not re.search("найдено|Ответ", english)


def test_the_reference_is_scored_by_the_same_rule():
    [(candidate, reference, _)] = judged(WHOLE, reference=INVENTS, facts=FACTS, screen_text=SCREEN)
    assert (candidate, reference) == (10, 6)


def test_without_screen_text_the_reference_tells_what_else_is_on_the_screen():
    true, invented = "Комиссия 0 ₽. " + WHOLE, "Комиссия 77 ₽. " + WHOLE
    first, second = judged(true, invented, reference=true, facts=FACTS)
    assert first[:2] == (10, 10) and second[0] == 6
    assert "«77 ₽»" in second[2] and "Текста экрана у этих данных нет" in second[2]


def test_without_facts_there_is_only_overlap_and_it_says_so():
    same, near, far = judged(WHOLE, HALF, "Где мой заказ?")
    assert same[:2] == (10, 10) and 10 > near[0] > far[0] == 1
    assert all(row[2].splitlines()[-1].startswith("Только совпадение с эталоном") for row in (same, near, far))
    assert not re.search("найдено фактов|выдумано", near[2])
    [(score, _, english)] = judged(HALF, language="en")
    assert score == near[0] and "Overlap with the reference only" in english


def test_screen_text_without_facts_is_overlap_less_inventions():
    clean, invents = judged(WHOLE, INVENTS, screen_text=SCREEN)
    assert clean[0] == 10 and invents[0] < 7
    assert "«99 777 ₽»" in invents[2] and "вместо них совпадение с эталоном" in invents[2]


def test_a_question_is_a_source_too():
    [(score, _, _)] = judged(
        "На 5 200 ₽: 20 588 ₽.", question="Хватит ли 5 200 ₽?", facts=("20 588 ₽",), screen_text="x"
    )
    assert score == 10


def test_nothing_to_go_by_is_an_error_row_and_no_score():
    item = Item("s1", "s1", "none.png", reference="👍")
    [rows] = [
        [
            row
            for new in rubric().judge([JudgeRequest(item, Answer("s1", 0, "s1", WHOLE), Path("none.png"))])
            for row in new
        ]
    ]
    assert [r.status for r in rows] == ["error"] * 2 and "no word in the reference" in rows[0].error
    assert rows[0].candidate_score is None and "attempts" not in rows[0].error  # asked once


def test_answers_without_text_and_items_without_reference_are_not_asked():
    item = Item("s1", "s1", "none.png", reference=None, facts=FACTS)
    requests = [
        JudgeRequest(item, Answer("s1", 0, "s1", WHOLE), Path("none.png")),
        JudgeRequest(item, Answer("s1", 1, "s1", None, error="oom"), Path("none.png")),
    ]
    rows = [row for new in rubric().judge(requests) for row in new]
    assert [(r.status, r.error) for r in rows] == [("not_asked", "no reference")] * 2 + [("not_asked", "no answer")] * 2


TEXTS = st.one_of(
    st.text(max_size=60), st.sampled_from(["Да", "🙂", "\u202eאבג", "\0", "9" * 20_000, "«», ", HALF, INVENTS])
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, st.lists(st.sampled_from(FACTS) | st.text(max_size=20), max_size=5), st.none() | TEXTS)
def test_whatever_the_texts_a_verdict_is_valid_and_equal_answers_score_the_same(text, reference, facts, screen):
    case = {
        **{"question": None, "answer_a": text, "answer_b": text, "facts": facts},
        **{"screen_text": screen, "reference": reference, "language": "ru"},
    }
    try:
        said = reply([{"role": "user", "content": json.dumps(case)}], {}, 1.0)
    except ValueError as error:
        assert not facts and "neither facts nor overlap" in str(error)
        return
    verdict = parse(said.text, rubric().schema())
    assert verdict.score_a == verdict.score_b
    if text == reference and not screen:
        assert verdict.score_a == 10 or facts


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_more_facts_never_cost_and_more_inventions_never_pay(hits, misses, inventions):
    def score(hits, misses, inventions):
        return Finding(["x"] * hits, ["x"] * misses, ["x"] * inventions, hits + inventions, None).score

    here = score(hits + 1, misses, inventions)
    assert 1 <= here <= 10
    assert score(hits + 2, misses, inventions) >= here >= score(hits + 1, misses + 1, inventions)
    assert here >= score(hits + 1, misses, inventions + 1)


# ------------------------------------------------------------------------------------------------------ as a component


def test_it_needs_nothing_and_imports_nothing_heavy_before_the_run():
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from tests.helpers import composed\nfrom vlm_eval import config\n"
        "judge = config.build(composed('judge=rubric', 'metrics=tech').judge)\n"
        "judge.check(); judge.cost(10); judge.facts()\n"
        "assert not {'litellm', 'pydantic', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


def test_provenance_names_the_rules():
    facts = rubric().facts()
    assert facts["judge_model"] == "rubric/facts" and facts["judge_rules"] >= 1 and "judge_stemmer" in facts


def test_keys_without_an_effect_are_refused():
    with pytest.raises(BadInput, match="judge.temperature: no such key"):
        composed("judge=rubric", "+judge.temperature=0.5", "metrics=tech")
    with pytest.raises(BadInput, match="judge.language=de: it is ru or en"):
        rubric(language="de")


def test_it_may_not_sit_on_a_panel():
    members = ["+judge@judge.members.rubric=rubric", "judge=panel", "metrics=tech"]
    with pytest.raises(BadInput, match="judge.members.rubric: rubric is no model with an opinion of its own"):
        config.build(composed(*members).judge)


def test_it_is_one_provider_however_often_it_is_used():
    import litellm

    judged(WHOLE, facts=FACTS)
    judged(HALF, facts=FACTS)
    assert [known["provider"] for known in litellm.custom_provider_map].count(PROVIDER) == 1


def test_four_hundred_answers_in_both_orders_take_seconds():
    judged(WHOLE, facts=FACTS)  # LiteLLM imported
    item = Item("s1", "s1", "none.png", reference=WHOLE, facts=FACTS, screen_text=SCREEN)
    requests = [JudgeRequest(item, Answer("s1", k, "s1", f"{INVENTS} {k}"), Path("none.png")) for k in range(400)]
    began = time.process_time()
    assert sum(len(new) for new in rubric().judge(requests)) == 800
    assert time.process_time() - began < 10  # 1.5 s measured


def test_a_whole_run(tmp_path, vlm_eval_cli, no_network):
    """Recorded answers, this judge: rows, summary, provenance; and nothing in its files calls it a language model."""
    import csv

    with open(Path(paths.demo("screen_annotation")) / "items.csv", encoding="utf-8") as file:
        items = list(csv.DictReader(file))
    answers = write_table(
        tmp_path / "answers.csv",
        [
            {"model": "m", "item_id": i["item_id"], "repeat": k, "text": i["reference"][: 60 * (k + 1)]}
            for i in items
            for k in range(2)
        ],
    )
    ended = vlm_eval_cli(
        "engine=replay",
        f"engine.path={answers}",
        "task=screen_annotation",
        "metrics=tech",
        "judge=rubric",
        "tracking=none",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert ended.code == 0, ended.err
    run = RunFolder(tmp_path / "run")
    rows = run.read("judgements")
    assert len(rows) == 2 * len(items) * 2 and {r.status for r in rows} == {"ok"}
    summary = run.summary()
    assert 0 < summary["judge/match_ratio"] < 1 and summary["judge/fail_rate"] == 0
    assert summary["judge/cost_usd"] == 0 and summary["judge/tokens"] == 0
    assert summary.items() >= summarise(rows, run.read("answers")).items()
    assert run.provenance()["judge"]["judge_model"] == "rubric/facts"
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            assert not re.search(
                "llm", file.read_text(encoding="utf-8").replace("vllm", "").replace("litellm", ""), re.I
            )
