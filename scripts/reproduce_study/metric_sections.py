"""The page's sections on all metrics but ROUGE and the judge's."""

from __future__ import annotations

import statistics

from study import Study, section, table

NOT_HERE = {  # published, and scored by vlm-eval only with a checkpoint that is no part of it
    "perplexity": ("Perplexity", "perplexity/mean", "ai-forever/rugpt3large_based_on_gpt2"),
    "bleurt": ("BLEURT", "bleurt/mean", "BLEURT-20"),
}


def time(study: Study) -> str:
    tenths = sum(float(row["time_s"]) == round(float(row["time_s"]), 1) for row in study.rows)
    first = [m for m in study.models if seconds(study, m)[0] > 2 * statistics.median(seconds(study, m))]
    notes = [
        f"Recorded times have one decimal ({tenths} of {len(study.rows)} rows).",
        f"For {len(first)} of {len(study.models)} models the first answer took over twice the median: no warm-up.",
    ]
    for model in study.models:
        times = seconds(study, model)
        usual = [t for t in times if t <= 10 * statistics.median(times)]
        if len(usual) < len(times):
            slow = [row for row in study.of(model) if float(row["time_s"]) > max(usual)]
            notes.append(
                f"{model}: {len(slow)} of {len(times)} answers took {min(float(r['time_s']) for r in slow):.1f} to "
                f"{max(times):.1f} s for at most {max(len(r['candidate']) for r in slow)} characters; without them its "
                f"mean is {statistics.fmean(usual):.3f} s, its median with them {statistics.median(times):.2f} s."
            )
    return section(study, "Time, s a request", "time_s", "tech/latency_s_mean", notes)


def seconds(study: Study, model: str) -> list[float]:
    return [float(row["time_s"]) for row in study.of(model)]


def length(study: Study) -> str:
    same = sum(float(row["length_chars"]) == len(row["candidate"]) for row in study.rows)
    quoted = sum(row["candidate"][:1] == row["candidate"][-1:] == '"' for row in study.rows)
    note = (
        f"The recorded length is the number of code points of the answer as it is in {same} of {len(study.rows)} rows; "
        f"{quoted} answers stand in quotation marks, which count."
    )
    return section(study, "Length, characters", "length_chars", "tech/length_chars_mean", [note])


def rate(study: Study) -> str:
    rounded = sum(
        round(len(row["candidate"]) / float(row["time_s"]), 1) == float(row["chars_per_s"]) for row in study.rows
    )
    bounds = []
    for model in study.models:
        cells = [(len(row["candidate"]), float(row["time_s"])) for row in study.of(model)]
        low = statistics.fmean(n / (t + 0.05) for n, t in cells)
        high = statistics.fmean(n / (t - 0.05) for n, t in cells)
        bounds.append([model, f"{low:.0f} to {high:.0f}", f"{(high - low) / (high + low):.0%}"])
    notes = [
        f"{rounded} of {len(study.rows)} recorded rates are length over recorded time, rounded to 0.1; ours are not "
        "rounded before the mean is taken, which is all of the difference.",
        "Both inherit the rounding of the times. Any true times that round to the recorded ones allow these means:",
    ]
    text = section(study, "Characters per second", "chars_per_s", "tech/chars_per_s_mean", notes)
    return f"{text}\n\n{table(['', 'possible means', 'half of the range'], bounds)}"


def foreign(study: Study) -> str:
    recorded = sum(float(row["foreign_letters"]) for row in study.rows)
    note = (
        f"Letters neither Cyrillic nor Latin, a sum over a model's answers; the recorded rows add up to {recorded:.0f}."
    )
    return section(study, "Foreign letters", "foreign_letters", "language/foreign_letters_sum", [note])


def latin(study: Study) -> str:
    """published_means.csv has no such column: ours, beside what the study calls "EN chars, %"."""
    lines = []
    for model, share, unique in zip(
        study.models, study.mine("language/latin_share_mean"), study.mine("language/latin_words_unique"), strict=True
    ):
        characters = sum(len(row["candidate"]) for row in study.of(model))
        theirs = "not computed" if unique is None else f"{100 * unique / characters:.2f}"
        lines.append([model, theirs, "not computed" if share is None else f"{100 * share:.2f}"])
    listed = ", ".join(next(iter(study.published.values())))
    return (
        f"## Latin share, %\n\n{table(['', 'unique Latin words / characters', 'ours: Latin letters / letters'], lines)}"
        "\n\n"
        'The study\'s "EN chars, %" is the number of different English words over the number of characters, which is '
        f"no share of letters; its means are not among the published ones ({listed}), so there is nothing to subtract. "
        "The first column is that kind of number, over all answers of a model."
    )


def spelling(study: Study) -> str:
    recorded = {(r["model_name"], r["image"], int(r["repeat"])): float(r["spelling_errors"]) for r in study.rows}
    mine = {
        (model, score.item_id, score.repeat): score.values.get("grammar_errors") or 0
        for model in study.models
        for score in study.scores[model]
    }
    theirs_in, ours_in = {k for k, n in recorded.items() if n}, {k for k, n in mine.items() if n}
    note = (
        "A sum over a model's answers. The study's are spelling errors by Yandex Speller, ours spelling and grammar "
        "errors by pylat-ru: another checker, other errors. "
        f"The study's are in {len(theirs_in)} answers, ours in {len(ours_in)}, both in {len(theirs_in & ours_in)}."
    )
    return section(study, "Spelling errors", "spelling_errors", "language/grammar_errors_sum", [note])


def not_here(study: Study) -> str:
    parts = []
    for name, (title, key, checkpoint) in NOT_HERE.items():
        digits = study.decimals(name)
        lines, same = [], 0
        for model, theirs in zip(study.models, study.theirs(name), strict=True):
            lines.append([model, f"{theirs:.{digits}f}"])
            recorded = statistics.fmean(float(row[name]) for row in study.of(model))
            same += f"{recorded:.{digits}f}" == lines[-1][1]
        if None not in study.mine(key):
            parts.append(section(study, title, name, key, []))
            continue
        parts.append(
            f"## {title}\n\n{table(['', 'published'], lines)}\n\n"
            f"Not recomputed here: needs the checkpoint {checkpoint}. "
            f"The means of the recorded rows are the published ones for {same} of {len(lines)} models."
        )
    return "\n\n".join(parts)
