"""The headline: what may be said of each candidate, and which one is recommended."""

from __future__ import annotations

import dataclasses
import re
from string import Formatter

import pytest

from tests.report.sweep import make_sweep
from vlm_eval.errors import BadInput
from vlm_eval.gate import Limits
from vlm_eval.reasons import RULES
from vlm_eval.report.data import read_sweep
from vlm_eval.report.texts import LANGUAGES, Texts
from vlm_eval.report.verdicts import decide
from vlm_eval.report.write import different_data, write_report
from vlm_eval.store import RunFolder

EN = Texts("en")


def verdicts(folder, baseline=None, **limits):
    return decide(read_sweep(folder), baseline, Limits(**{"margin": 0.05, **limits}), EN)


def test_the_headline_is_the_paired_ratio_of_ratios_and_the_share_of_memory(tmp_path):
    found = verdicts(make_sweep(tmp_path / "s", quants=("gptq4", "bf16"), items=12))
    [pair] = found.pairs
    # 12 items: bf16 9 of 10 in all, gptq4 8 in eleven and 4 in one.
    assert pair.found.ratio == pytest.approx((11 * 0.8 + 0.4) / 12 / 0.9)
    low, high = round(100 * pair.found.ratio_low), round(100 * pair.found.ratio_high)
    assert found.sentences == [
        f"demo gptq4 keeps 85\N{NO-BREAK SPACE}% of demo bf16's match ratio [{low}, {high}], "
        "at 43\N{NO-BREAK SPACE}% of its weights' size (VQA)"
    ]
    assert "quant=bf16 was taken" in found.notes[0]


def test_a_recommendation_is_the_smallest_that_the_gate_lets_through(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), items=12)
    assert "stay with the baseline" in verdicts(folder, margin=0.05).recommendation
    loose = verdicts(folder, margin=0.5)
    assert "Recommended: demo gptq4" in loose.recommendation and "50.0 points" in loose.recommendation
    assert loose.faults == {"demo gptq4": [], "demo awq": []}
    slow = verdicts(folder, margin=0.5, max_latency_p95=1.0)
    assert "stay with the baseline" in slow.recommendation  # no latency was measured: what is missing never passes
    assert all("no tech/latency_s_p95" in reasons[0] for reasons in slow.faults.values())


def test_equal_runs_are_not_called_better_or_worse(tmp_path):
    [line] = verdicts(make_sweep(tmp_path / "s", quants=("gptq4", "awq"), items=6), "quant=awq").sentences
    assert "no difference in any of 6 screenshots" in line


def test_few_screenshots_give_no_interval(tmp_path):
    [line] = verdicts(make_sweep(tmp_path / "s", items=1)).sentences
    assert "no interval, there are only 1 screenshots" in line and "keeps" not in line


def test_without_a_judge_the_next_quality_is_named(tmp_path):
    found = verdicts(make_sweep(tmp_path / "s", judged=False))
    assert found.quality == "facts/recall_mean"
    assert "facts recall" in found.sentences[0]


def test_a_failed_run_is_said_and_never_recommended(tmp_path):
    found = verdicts(
        make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), failed=["gptq4"], items=12), margin=0.5
    )
    assert "demo gptq4: not compared, the run is failed: out of <memory>" in found.sentences[0]
    assert "Recommended: demo awq" in found.recommendation


def test_one_model_alone_has_nothing_to_be_held_against(tmp_path):
    found = verdicts(make_sweep(tmp_path / "s", quants=("gptq4",)))
    assert found.pairs == [] and "no quant=bf16" in found.notes[0]
    with pytest.raises(BadInput, match="--baseline quant=gptq8: no run matches"):
        verdicts(tmp_path / "s", "quant=gptq8")


def test_items_that_are_other_pictures_elsewhere_are_left_out_and_said(tmp_path):
    folder = make_sweep(tmp_path / "s", items=8)
    run = RunFolder(folder / "demo-gptq4-vqa")
    first, *others = run.read("items")
    run.replace("items", [dataclasses.replace(first, image_sha256="another"), *others])
    [pair] = verdicts(folder).pairs
    assert pair.found.n == 7 and pair.found.candidate == pytest.approx(0.8)  # without the one that scored 4
    assert different_data(read_sweep(folder), EN) == [
        "VQA: 1 questions or screenshots differ between runs; only the common ones are compared."
    ]


def test_runs_of_different_judges_are_refused_with_a_sentence(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), items=6)
    run = RunFolder(folder / "demo-gptq4-vqa")
    [entry] = run.provenance()["judges"].values()
    run.provenance(judges={"stern": {**entry, "facts": {"judge_model": "another"}}})
    found = verdicts(folder, margin=0.5)
    assert found.sentences[0].startswith("demo gptq4: not compared, another judge, or another prompt of the judge")
    assert "demo awq keeps" in found.sentences[1]
    assert "Recommended: demo awq" in found.recommendation
    assert any("judge.model differs: stern (2 runs), another (1 runs)" in note for note in read_sweep(folder).notes)


def test_both_languages_have_the_same_words():
    def names(tree):
        return {(group, name) for group, words in tree.items() for name in words}

    ru, en = (names(Texts(language).all) for language in LANGUAGES)
    english = {("reasons", rule) for rule in RULES}  # English is what reasons are written in
    assert ru == en | english and not en & english
    with pytest.raises(ValueError, match="language=de"):
        Texts("de")


def test_reasons_are_said_in_the_report_s_language(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), failed=["awq"], items=12)
    RunFolder(folder / "demo-bf16-vqa").provenance(metrics={"language": {"backend": "pylat-ru 0.1"}})
    RunFolder(folder / "demo-gptq4-vqa").provenance(metrics={"language": {"backend": "LanguageTool 6.8"}})
    found = decide(read_sweep(folder), None, Limits(0.05, max_gib=24.0), Texts("ru"))
    worse, memory = found.faults["demo gptq4"]
    assert re.fullmatch(r"вопросы по экрану: может быть хуже на 0,\d+, допустимо 0,05", worse)
    assert memory == "вопросы по экрану: сказать нельзя: tech/host_peak_gib не измерено"
    assert found.faults["demo awq"] == ["вопросы по экрану: прогон не завершён (failed): out of <memory>"]
    page = write_report(folder) / "report.md"
    said = "language: сравнимо не между всеми прогонами, language.backend различается: "
    assert said + "LanguageTool 6.8 (прогонов: 1), pylat-ru 0.1 (прогонов: 1)" in page.read_text()
    english = decide(read_sweep(folder), None, Limits(0.05, max_gib=24.0), Texts("en"))
    assert "may be worse by 0." in english.faults["demo gptq4"][0]


@pytest.mark.parametrize("rule", RULES)
def test_every_reason_needs_the_same_words_in_both_languages(rule):
    def words(text):
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    russian = words(Texts("ru").all["reasons"][rule])
    assert russian == words(RULES[rule]) or rule == "few_screenshots" and russian == {"clusters", "least"}


def test_markdown_has_all_runs_and_no_markup_of_the_answers(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), failed=["awq"])
    out = write_report(folder, language="en")
    text = (out / "report.md").read_text()
    assert text.count("| demo ") == 3
    assert "failed: out of \\<memory\\>" in text
    assert "0.733" in text.split("demo gptq4 | VQA | ok")[1].split("\n")[0]  # (5 x 0.8 + 0.4) / 6
