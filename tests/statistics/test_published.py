"""The published study's own judgements, with our intervals: the same means and order, more honest widths."""

from __future__ import annotations

import csv

import pytest

from tests.metrics.data import SEED, needs_recorded, recorded_rows
from vlm_eval.rows import Answer, Judgement
from vlm_eval.statistics.bootstrap import bootstrap_ratio
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.statistics.intervals import mean_interval, ratio_interval
from vlm_eval.statistics.paired import common, compare_all

pytestmark = needs_recorded
BF16 = "Qwen2-VL-7B-Instruct"


@pytest.fixture(scope="module")
def runs():
    """Model -> (judgements, answers); a score off the scale of 1 to 10 is no verdict."""
    found: dict[str, tuple[list, list]] = {}
    for r in recorded_rows():
        scores = [float(r[f"{who}_score"]) for who in ("candidate", "reference")]
        key = r["image"], int(r["repeat"])
        status = "ok" if all(1 <= s <= 10 for s in scores) else "invalid"
        judgements, answers = found.setdefault(r["model_name"], ([], []))
        judgements.append(Judgement(*key, "study", "ab", 0, False, *scores, r["rationale"], status))
        answers.append(Answer(*key, r["image"], r["candidate"]))
    return found


@pytest.fixture(scope="module")
def ok(runs):
    return {model: scores_by_answer(*of) for model, of in runs.items()}


def published():
    with open(SEED / "sa" / "published_means.csv", encoding="utf-8", newline="") as table:
        return {
            row["model_name"]: {k: float(v) for k, v in row.items() if k != "model_name"}
            for row in csv.DictReader(table)
        }


def test_the_published_means_and_their_order(ok):
    ours = {model: mean_interval((c, x / y) for c, x, y in rows.values()) for model, rows in ok.items()}
    means = published()
    for model, (mean, *_, n) in ours.items():
        assert round(mean, 2) == round(means[model]["match_ratio_mean_of_ratios"], 2)
        assert n == means[model]["judged_in_range"]
        assert ratio_interval(ok[model].values())[0] == pytest.approx(means[model]["match_ratio_of_means"], abs=6e-5)
    assert sorted(ours, key=lambda m: -ours[m][0]) == sorted(
        means, key=lambda m: -means[m]["match_ratio_mean_of_ratios"]
    )


def test_the_interval_of_7b_bf16_is_wider_than_published(ok):
    ratio, low, high, n = ratio_interval(ok[BF16].values())
    assert (round(ratio, 3), round(low, 3), round(high, 3), n) == (0.866, 0.825, 0.907, 50)
    # 10,000 resamples leave the third decimal to the seed; a million give 0.8322 to 0.8995.
    assert bootstrap_ratio(ok[BF16].values()) == pytest.approx((0.8322, 0.8995), abs=0.0015)
    assert (high - low) / 2 > 1.5 * published()[BF16]["match_ratio_ci95_iid"] > 0.038


def test_every_interval_is_wider_than_published_and_the_bootstrap_the_narrower(ok):
    for model, rows in ok.items():
        _, low, high, _ = ratio_interval(rows.values())
        below, above = bootstrap_ratio(rows.values())
        assert published()[model]["match_ratio_ci95_iid"] < (above - below) / 2 < (high - low) / 2


def test_the_six_verdicts_off_the_scale_are_not_forgotten(runs, ok):
    lost = {model: 50 - len(rows) for model, rows in ok.items()}
    assert sum(lost.values()) == 6
    for model, of in runs.items():
        bound, survivors = scores_by_answer(*of, failed_as=1), ok[model]
        assert len(bound) == 50
        difference = ratio_interval(survivors.values())[0] - ratio_interval(bound.values())[0]
        assert 0.01 < difference < 0.05 if lost[model] else difference == 0
    assert {len(rows) for rows in common(ok).values()} == {44}


def test_what_the_study_can_and_cannot_say_of_quantisation(ok):
    found = compare_all({m: rows for m, rows in ok.items() if m.startswith(BF16)}, BF16, margin=0.05)
    shown = {model.removeprefix(BF16): c.shown for model, c in found.items()}
    assert shown == {"-GPTQ-Int8": "none", "-AWQ": "none", "-GPTQ-Int4": "lower"}
    assert not any(c.equivalent for c in found.values())  # ten screenshots are too few for that
    for c in found.values():
        assert (c.p < 0.05) == (c.p_sign_flip < 0.05) and c.detectable > 0.06
