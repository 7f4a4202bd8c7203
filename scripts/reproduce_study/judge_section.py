"""The page's section on the judge: the match ratio as published, with honest intervals, and what it can tell apart."""

from __future__ import annotations

import dataclasses
import statistics
from itertools import combinations

from study import Study, places, signed, table, verdict

from vlm_eval.statistics.bootstrap import RESAMPLES
from vlm_eval.statistics.multiplicity import holm
from vlm_eval.statistics.paired import Comparison, compare

RATIO = "judge/match_ratio"  # the ratio of means
MEAN = "judge/match_ratio_mean_of_ratios"
PUBLISHED = {"match_ratio_mean_of_ratios": MEAN, "match_ratio_of_means": RATIO, "judged_in_range": f"{RATIO}_n"}
UNPAIRED = "match_ratio_ci95_iid"


def judge(study: Study) -> str:
    parts = [published(study), ratio_of_means(study), failed(study), swaps(study), against_bf16(study), not_told(study)]
    return "\n\n".join(["## Judge", *parts])


def missed(study: Study) -> list[str]:
    """A sentence for each of the judge's published columns that does not come out, and with it the models' order."""
    found = []
    for name, key in PUBLISHED.items():
        said = verdict(study, name, key)
        if not said.startswith("Equal to the published precision for all"):
            found.append(f"{name}: {said}")
    off = [m for m in study.models if f"{iid(study, m):.4f}" != f"{float(study.published[m][UNPAIRED]):.4f}"]
    return found + ([f"{UNPAIRED}: another value for {', '.join(off)}"] if off else [])


def iid(study: Study, model: str) -> float:
    """Half the interval of the mean of ratios that takes all answers for independent."""
    ratios = [x / y for _, x, y in study.points[model].rows.values()]
    return 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5


# ----------------------------------------------------------------------------------------------------- as it was stated


def published(study: Study) -> str:
    name, lines = "match_ratio_mean_of_ratios", []
    theirs, ours = study.theirs(name), study.mine(MEAN)
    for n, model in enumerate(study.models):
        cell = [f"{theirs[n]:.4f} ({places(theirs)[n]})", f"{ours[n]:.4f} ({places(ours)[n]})"]
        number = study.published[model]["judged_in_range"], f"{study.ours[model][f'{MEAN}_n']}"
        lines.append([model, *cell, signed(ours[n] - theirs[n], 4), " / ".join(number)])
    head = ["", "published (place)", "ours (place)", "difference", "judgements, published / ours"]
    unmet = missed(study)
    said = (
        "**Not as published:** " + " ".join(unmet)
        if unmet
        else f"The means, to {study.decimals(name)} decimals, the order of the models, the number of judgements and "
        "half the interval (1.96 standard errors as if all answers were independent) are the published ones for all "
        f"{len(study.models)} models."
    )
    return (
        "The study's judge gave answer and reference a score of 1 to 10 each, once an answer; `judge=recorded` takes "
        "its judgements and asks nobody. The match ratio is the answer's score over the reference's.\n\n"
        "### Mean of ratios\n\n"
        f"{table(head, lines)}\n\n{said}"
    )


def ratio_of_means(study: Study) -> str:
    lines, wider = [], []
    for model in study.models:
        ours, theirs = study.ours[model], study.published[model]
        if f"{RATIO}_ci_low" not in ours:
            return "### Ratio of means\n\nToo few screenshots for an interval."
        low, high = ours[f"{RATIO}_ci_low"], ours[f"{RATIO}_ci_high"]
        alone = float(theirs[UNPAIRED])
        wider.append((high - low) / 2 / alone)
        lines.append(
            [model, f"{float(theirs['match_ratio_of_means']):.4f}", f"{ours[RATIO]:.4f}", f"{low:.3f} to {high:.3f}"]
            + [f"{ours[f'{RATIO}_bootstrap_ci_low']:.3f} to {ours[f'{RATIO}_bootstrap_ci_high']:.3f}"]
            + [f"± {(high - low) / 2:.3f}", f"± {alone:.3f}", f"{wider[-1]:.1f}"]
        )
    head = ["", "published", "ours", "t, 95 %", "bootstrap, 95 %", "t", "the study's", "times as wide"]
    return (
        f"### Ratio of means\n\n{table(head, lines)}\n\n"
        f"{verdict(study, 'match_ratio_of_means', RATIO)} vlm-eval's headline: `judge/match_ratio`, the mean of the "
        "answers' scores over the mean of the references', by screenshot. The study's intervals, those of the mean of "
        f"ratios, take all answers for independent; {repeats(study)} answers to one screenshot are not, and the t "
        f"interval that knows it is {min(wider):.1f} to {max(wider):.1f} times as wide. The bootstrap "
        f"({RESAMPLES:,} resamples of the {screenshots(study)} screenshots, its third decimal a matter of the draw) is "
        "a check: with so few screenshots it is too narrow."
    )


def repeats(study: Study) -> int:
    return len({row["repeat"] for row in study.rows})


def screenshots(study: Study) -> int:
    return len({row["image"] for row in study.rows})


def failed(study: Study) -> str:
    lines, reasons, recorded = [], [], {}
    for row in study.rows:
        recorded[row["model_name"], row["image"], int(row["repeat"])] = row["candidate_score"], row["reference_score"]
    scores = []
    for model in study.models:
        ours, rows = study.ours[model], study.judgements[model]
        bad = [j for j in rows if j.status != "ok"]
        number = f"{len(rows) - len(bad)} of {len(rows)}"
        bound = ours[f"{RATIO}_failures_as_1"]
        lines.append(
            [model, number, f"{sum(j.status == 'invalid' for j in bad)}", f"{ours['judge/fail_rate']:.0%}"]
            + [f"{ours[RATIO]:.3f}", f"{bound:.3f}", signed(bound - ours[RATIO], 3)]
        )
        reasons += [f"- {model}, {j.item_id}, repeat {j.repeat}: {j.status}, {j.error}" for j in bad]
        scores += [recorded[model, j.item_id, j.repeat] for j in bad if j.status == "invalid"]
    head = ["", "ok", "invalid", "fail rate", "match ratio", "failures as 1", "difference"]
    text = f"### Judgements that are none\n\n{table(head, lines)}"
    if not reasons:
        return f"{text}\n\nAll judgements are ok."
    why = ""
    if scores:
        answer, reference = (f"{min(map(float, column)):g} to {max(map(float, column)):g}" for column in zip(*scores))
        why = (
            f"In {len(scores)} judgements the judge gave {answer} to the answer and {reference} to the reference, a "
            "sum over four criteria in place of a score. The study left them out without a word; here they are "
            "invalid, with the first score that is off the scale. "
        )
    return (
        f"{text}\n\n{why}`judge/fail_rate` counts what has no scores, and `failures as 1` takes it for the worst "
        "verdict there is, 1 of 10:\n\n" + "\n".join(reasons)
    )


# -------------------------------------------------------------------------------------------------- what it tells apart


def swaps(study: Study) -> str:
    """The pairs of models that the ratio of means puts in another order than the mean of ratios, and why."""
    found = []
    for one, other in combinations(study.models, 2):
        if (study.ours[one][MEAN] - study.ours[other][MEAN]) * (study.ours[one][RATIO] - study.ours[other][RATIO]) < 0:
            found.append((one, other) if study.ours[one][MEAN] > study.ours[other][MEAN] else (other, one))
    title = "### Where the order depends on it"
    if not found:
        return f"{title}\n\nThe ratio of means puts the models in the order of the mean of ratios."
    return "\n\n".join([title, *(swap(study, *pair) for pair in found)])


def swap(study: Study, first: str, second: str) -> str:
    """`first` is ahead by the mean of ratios alone."""
    mean, ratio, other = study.ours[first][MEAN], study.ours[first][RATIO], study.ours[second]
    rows = list(study.points[first].rows.values())
    n, total = len(rows), sum(y for *_, y in rows)
    # Mean of ratios minus ratio of means, answer by answer: how far it is off times how much more weight it gets.
    parts = [(x / y - ratio) * (1 / n - y / total) for _, x, y in rows]
    most = max(range(n), key=lambda number: parts[number])
    _, x, y = rows.pop(most)
    rest = statistics.fmean(a / b for _, a, b in rows), sum(a for _, a, _ in rows) / sum(b for *_, b in rows)
    also = "both lower than" if max(rest) < min(other[MEAN], other[RATIO]) else "beside"
    paired = compare(study.points[first].rows, study.points[second].rows)
    return (
        f"{first} is ahead of {second} by the mean of ratios ({mean:.4f} and {other[MEAN]:.4f}) and behind it by the "
        f"ratio of means ({ratio:.4f} and {other[RATIO]:.4f}). In a mean of ratios every answer has the same weight, "
        "in a ratio of means that of its reference's score: in the former, answers beside a low reference score weigh "
        f"more. Of the {mean - ratio:.4f} between the two numbers of {first} one answer makes {parts[most]:.4f}: "
        f"it got {x:g} beside a reference of {y:g}, a ratio of {x / y:.2f}. Without it they are {rest[0]:.4f} and "
        f"{rest[1]:.4f}, {also} those of {second}. These data show neither order: on the {paired.n} answers that both "
        f"have a verdict on, {paired.sentence()}."
    )


def against_bf16(study: Study) -> str:
    found = paired_with_bf16(study)
    title = "### Quantisations against bf16"
    if not found:
        return f"{title}\n\nNo model stands beside its bf16."
    lines, shown = [], []
    for model, c in found.items():
        if c.p is None:
            lines.append([model, f"{c.n}", f"{c.difference:+.3f}", *[""] * 4, c.sentence()])
            continue
        word = {"none": "no difference shown"}.get(c.shown, c.shown)
        interval = f"{c.low:+.3f} to {c.high:+.3f}"
        lines.append(
            [model, f"{c.n}", f"{c.difference:+.3f}", interval, f"{c.p:.3f}", f"{c.p_holm:.3f}"]
            + [f"{c.detectable:.3f}", word]
        )
        shown += [model] if c.shown != "none" else []
    head = ["", "common answers", "difference", "95 %", "p", "p, Holm", "detectable", "verdict"]
    few = [c.detectable for c in found.values() if c.detectable is not None]
    least = f", {min(few):.2f} at least" if few else ""
    return (
        f"{title}\n\n{table(head, lines)}\n\n"
        "Ratio of means minus that of bf16 of the same size, on the answers that both have a verdict on; paired by "
        f"screenshot, t interval, p adjusted for all {len(found)} by Holm. Shown: {', '.join(shown) or 'none'}. "
        "«No difference shown» is not «no difference»: `detectable` is the true difference that these "
        f"{screenshots(study)} screenshots would have shown with 80 % power{least}."
    )


def paired_with_bf16(study: Study) -> dict[str, Comparison]:
    """Every quantisation against the bf16 of its model, adjusted over them all, for they stand in one table."""
    points = study.points
    bf16 = {point.get("model"): point for point in points.values() if point.get("quant") == "bf16"}
    pairs = {m: p for m, p in points.items() if p.get("quant") != "bf16" and p.get("model") in bf16}
    found = {m: compare(p.rows, bf16[p.get("model")].rows) for m, p in pairs.items()}
    found = {model: c for model, c in found.items() if c}
    adjusted = holm([c.p for c in found.values()])
    return {m: dataclasses.replace(c, p_holm=p) for (m, c), p in zip(found.items(), adjusted, strict=True)}


def not_told(study: Study) -> str:
    orders = {j.order for rows in study.judgements.values() for j in rows}
    named = sum("Answer A" in row["rationale"] or "Answer B" in row["rationale"] for row in study.rows)
    points = [
        "Flip rate, tie changes and position bias: each pair was judged in one order, drawn at random, and no column "
        f"says in which (`order` is {', '.join(sorted(orders))}). {named} of {len(study.rows)} rationales speak of "
        '"Answer A" or "B", from which the order could at best be guessed; vlm-eval does not.',
        "The judge's own noise: nothing was judged twice.",
        "Agreement of judges (`judge/alpha`) and with people: there was one judge.",
        "Whether the judge saw the screenshot, and what it cost: neither was recorded.",
    ]
    return "### What the recorded judgements cannot tell\n\n" + "\n".join(f"- {point}" for point in points)
