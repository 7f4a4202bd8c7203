"""The headline: what may be said of each candidate, and which one is recommended."""

from __future__ import annotations

import dataclasses
import re
import shutil
from string import Formatter

import pytest
from omegaconf import OmegaConf

from tests.helpers import composed
from tests.report.sweep import make_sweep
from vlm_eval.errors import BadInput
from vlm_eval.gate import Limits
from vlm_eval.judging import summarise_judges
from vlm_eval.reasons import RULES
from vlm_eval.report.data import read_sweep
from vlm_eval.report.texts import LANGUAGES, Texts
from vlm_eval.report.verdicts import decide
from vlm_eval.report.write import different_data, write_report
from vlm_eval.store import RunFolder, read_json, write_json

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
    [strict] = verdicts(folder, margin=0.05).recommendations
    assert strict.startswith(
        "Recommended: stay with demo bf16, no other is shown to keep the limits (a loss of quality"
    )
    loose = verdicts(folder, margin=0.5)
    # Both have 6 GiB: neither is hidden behind the other.
    [said] = loose.recommendations
    assert said.startswith("Recommended in place of demo bf16: demo gptq4 or demo awq, the smallest weights")
    assert "a loss of quality under 50 points" in said
    assert loose.faults == {"demo gptq4": [], "demo awq": []}
    slow = verdicts(folder, margin=0.5, max_latency_p95=1.0)
    # No latency was measured, not of the baseline either: what is missing never passes.
    [said] = slow.recommendations
    assert said.startswith("No recommendation: no other is shown to keep the limits")
    assert "nor is demo bf16 (VQA: cannot say: no tech/latency_s_p95, it needs 20 timed answers" in said
    assert "latency p95 at most 1 s" in said
    assert all("no tech/latency_s_p95" in reasons[0] for reasons in slow.faults.values())


def test_equal_runs_are_not_called_better_or_worse(tmp_path):
    [line] = verdicts(make_sweep(tmp_path / "s", quants=("gptq4", "awq"), items=6), "quant=awq").sentences
    # None in six: with 95 % confidence it is in at most 1 - 0.05 ** (1 / 6) of all.
    assert "no difference in any of 6 screenshots (with 95 % confidence, in at most 39\N{NO-BREAK SPACE}%" in line


def test_few_screenshots_give_no_interval(tmp_path):
    [line] = verdicts(make_sweep(tmp_path / "s", items=1)).sentences
    assert "no interval, it takes 5 screenshots and here is 1" in line and "keeps" not in line


def test_without_a_judge_the_next_quality_is_named(tmp_path):
    found = verdicts(make_sweep(tmp_path / "s", judged=False))
    assert found.quality == "facts/recall_mean"
    assert "facts recall" in found.sentences[0]


def test_a_failed_run_is_said_and_never_recommended(tmp_path):
    found = verdicts(
        make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), failed=["gptq4"], items=12), margin=0.5
    )
    assert "demo gptq4: not compared, the run is failed: out of <memory>" in found.sentences[0]
    assert "Recommended in place of demo bf16: demo awq" in found.recommendations[0]


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


def two_models(tmp_path, small: float, **baseline):
    """Two models of two quantisations, each with a bf16 of its own; the small one's scores are `small` of 10."""
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "bf16"), items=12)
    sweep = read_json(folder / "sweep.json")
    for quant in ("gptq4", "bf16"):
        run = RunFolder(shutil.copytree(folder / f"demo-{quant}-vqa", folder / f"small-{quant}-vqa"))
        OmegaConf.save(composed(f"quant={quant}", "task=vqa", "model.name=small"), run.path / ".hydra" / "config.yaml")
        run.replace("judgements", [dataclasses.replace(j, candidate_score=small) for j in run.read("judgements")])
        summarise_judges(run)
        write_json(run.path / "summary.json", run.summary() | {"tech/weights_gib": {"gptq4": 2.0, "bf16": 4.0}[quant]})
        sweep["points"].append({"folder": run.path.name, "overrides": [f"quant={quant}", "model.name=small"]})
    write_json(folder / "sweep.json", sweep)
    return folder


def test_models_are_not_compared_with_each_other_unless_one_baseline_is_named(tmp_path):
    folder = two_models(tmp_path, small=3.0)
    found = verdicts(folder, margin=0.5)
    first, second = found.recommendations  # the small model loses nothing to itself, and is no better for that
    assert first.startswith("Recommended in place of demo bf16: demo gptq4")
    assert second.startswith("Recommended in place of small bf16: small gptq4")
    assert any("models are not compared with each other" in note for note in found.notes)
    one = verdicts(folder, "model.name=demo,quant=bf16", margin=0.3)
    [said] = one.recommendations
    assert said.startswith("Recommended in place of demo bf16: demo gptq4")  # not the 2 GiB that score 3 of 10
    assert "may be worse by" in one.faults["small gptq4"][0]


def test_a_baseline_that_several_runs_are_is_refused(tmp_path):
    folder = two_models(tmp_path, small=3.0)
    with pytest.raises(BadInput, match="--baseline model.name=demo: 2 runs match, add a KEY=VALUE"):
        verdicts(folder, "model.name=demo")


def test_a_smaller_baseline_stays(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "bf16"), items=12)
    [said] = verdicts(folder, "quant=gptq4", margin=0.5).recommendations
    assert said.startswith("Recommended: stay with demo gptq4, nothing smaller keeps the limits")


def test_nothing_is_recommended_in_place_of_a_baseline_that_failed_or_is_alone(tmp_path):
    failed = verdicts(make_sweep(tmp_path / "a", failed=["bf16"], items=6))
    assert failed.recommendations == ["No recommendation in place of demo bf16: its own run did not end well."]
    alone = verdicts(make_sweep(tmp_path / "b", quants=("bf16",), items=6))
    assert alone.recommendations == [] and any("no run beside the baseline" in note for note in alone.notes)


def test_a_difference_that_only_the_number_of_comparisons_hides_says_so(tmp_path):
    names = ("gptq4", *(f"q{n}" for n in range(8)), "bf16")
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "bf16"), items=8)
    sweep, base = read_json(folder / "sweep.json"), folder / "demo-bf16-vqa"
    run = RunFolder(folder / "demo-gptq4-vqa")
    levels = {"item/0": 6.0, "item/1": 9.0, "item/2": 7.0, "item/3": 9.5, "item/4": 8.0, "item/5": 7.0}
    scored = [dataclasses.replace(j, candidate_score=levels.get(j.item_id, 8.5)) for j in run.read("judgements")]
    run.replace("judgements", scored)
    for name in names[1:-1]:
        copied = shutil.copytree(base, folder / f"demo-{name}-vqa")
        OmegaConf.save(composed("task=vqa", f"quant.name={name}"), copied / ".hydra" / "config.yaml")
        sweep["points"].append({"folder": f"demo-{name}-vqa", "overrides": [f"quant={name}", "task=vqa"]})
    write_json(folder / "sweep.json", sweep)
    found = verdicts(folder)
    assert found.pairs[0].found.p < 0.05 < found.pairs[0].found.p_holm
    assert "no difference shown among so many comparisons (p " in found.sentences[0]
    assert re.search(r"by Holm\), −\d+\.\d points \[−\d+\.\d, −\d\.\d\]", found.sentences[0])
    assert "would have been" not in found.sentences[0]


def test_runs_of_different_judges_are_refused_with_a_sentence(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), items=6)
    run = RunFolder(folder / "demo-gptq4-vqa")
    [entry] = run.provenance()["judges"].values()
    run.provenance(judges={"stern": {**entry, "facts": {"judge_model": "another"}}})
    found = verdicts(folder, margin=0.5)
    assert found.sentences[0].startswith("demo gptq4: not compared, another judge, or another prompt of the judge")
    assert "demo awq keeps" in found.sentences[1]
    assert "Recommended in place of demo bf16: demo awq" in found.recommendations[0]
    assert any("judge.model differs: stern (2 runs), another (1 runs)" in note for note in read_sweep(folder).notes)


def test_both_languages_have_the_same_words():
    def names(tree):
        return {(group, name) for group, words in tree.items() for name in words}

    ru, en = (names(Texts(language).all) for language in LANGUAGES)
    english = {("reasons", rule) for rule in RULES}  # English is what reasons are written in, but for some
    assert ru == en | english
    with pytest.raises(ValueError, match="language=de"):
        Texts("de")


def test_reasons_are_said_in_the_report_s_language(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), failed=["awq"], items=12)
    RunFolder(folder / "demo-bf16-vqa").provenance(metrics={"language": {"backend": "pylat-ru 0.1"}})
    RunFolder(folder / "demo-gptq4-vqa").provenance(metrics={"language": {"backend": "LanguageTool 6.8"}})
    found = decide(read_sweep(folder), None, Limits(0.05, max_gib=24.0), Texts("ru"))
    worse, memory = found.faults["demo gptq4"]
    assert re.fullmatch(r"вопросы по экрану: может быть хуже на \d+,\d п. п., допустимо 5,0", worse)
    assert memory == "вопросы по экрану: tech/host_peak_gib не измерено"
    assert found.faults["demo awq"] == ["вопросы по экрану: прогон не удался (failed): out of <memory>"]
    page = write_report(folder) / "report.md"
    said = "language: сравнимо не между всеми прогонами, language.backend различается: "
    assert said + "LanguageTool 6.8 (прогонов: 1), pylat-ru 0.1 (прогонов: 1)" in page.read_text()
    english = decide(read_sweep(folder), None, Limits(0.05, max_gib=24.0), Texts("en"))
    assert re.fullmatch(r"VQA: may be worse by \d+\.\d points, the margin is 5\.0", english.faults["demo gptq4"][0])


@pytest.mark.parametrize("rule", RULES)
def test_every_reason_needs_the_same_words_in_both_languages(rule):
    def words(text):
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    for language in LANGUAGES:
        said = words({**RULES, **Texts(language).all["reasons"]}[rule])
        assert said == words(RULES[rule]) or rule == "few_screenshots" and said == {"clusters", "least"}


def test_markdown_has_all_runs_and_no_markup_of_the_answers(tmp_path):
    folder = make_sweep(tmp_path / "s", quants=("gptq4", "awq", "bf16"), failed=["awq"])
    out = write_report(folder, language="en")
    text = (out / "report.md").read_text()
    assert text.count("| demo ") == 3
    assert "failed: out of \\<memory\\>" in text
    assert "0.733" in text.split("demo gptq4 | VQA | ok")[1].split("\n")[0]  # (5 x 0.8 + 0.4) / 6
