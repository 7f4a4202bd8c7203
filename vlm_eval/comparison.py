"""All runs of a sweep side by side: comparison.csv, the closing table, and what in them must not be compared."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from omegaconf import DictConfig, OmegaConf

from vlm_eval import config
from vlm_eval.engines.recorded import recorded_config
from vlm_eval.judging import judge_facts
from vlm_eval.reasons import Reason
from vlm_eval.store import RunFolder
from vlm_eval.tables import neutral
from vlm_eval.text_table import text_table

COMMON = "judge/match_ratio_common"  # over the answers that all runs of a task have, see sweep_statistics
CUT_OFF = "tech/truncated_rate"  # answers that ended at task.sampling.max_tokens
RATE, BATCHES = "tech/output_tokens_per_s", "tech/generation_batches"
HEADLINES = {  # columns of the closing table: (summary's name, heading, format)
    "judge/match_ratio": ("match ratio", "{:.3f}"),
    COMMON: ("of common answers", "{:.3f}"),
    "rouge/rouge1_f_mean": ("ROUGE-1", "{:.3f}"),
    "rouge/rougeL_f_mean": ("ROUGE-L", "{:.3f}"),
    "bleurt/mean": ("BLEURT", "{:.3f}"),
    "facts/recall_mean": ("facts recall", "{:.3f}"),
    "facts/precision_mean": ("precision", "{:.3f}"),
    "language/grammar_errors_per_100_words": ("errors/100 words", "{:.2f}"),
    "tech/latency_s_p50": ("latency p50 s", "{:.3f}"),
    RATE: ("tokens/s", "{:.0f}"),
    "tech/cached_prompt_rate": ("prompts cached", "{:.0%}"),
    "tech/weights_gib": ("weights GiB", "{:.3g}"),
    "tech/host_peak_gib": ("RAM peak GiB", "{:.2f}"),
    "tech/gpu_peak_gib": ("GPU peak GiB", "{:.2f}"),
    "tech/energy_j_per_answer": ("J/answer", "{:.3g}"),
    "tech/energy_j_per_answer_alone": ("J/answer alone", "{:.3g}"),
    "memory/total_gib_1": ("GiB at 1", "{:.2f}"),
    "memory/total_gib_6144": ("GiB at 6144", "{:.2f}"),
    "tech/failed_rate": ("failed", "{:.0%}"),
    CUT_OFF: ("cut off", "{:.1%}"),
}

NOT_BEGUN = "not begun"  # what people read for "missing"
GROUPS = ("model", "quant", "task")  # the first columns of comparison.csv, whether they were overridden or not


@dataclass(frozen=True)
class Run:
    """What a finished sweep knows of one of its runs. One that never started is "missing"."""

    folder: str
    state: str
    error: Optional[str]
    overrides: dict[str, str]
    summary: dict[str, float]
    facts: dict[str, Any]  # what numbers depend on: "language.backend" -> "pylat-ru 0.1.0a0", "judge.order" -> "both"
    not_scored: dict[str, str]  # metric -> why it has no numbers at all
    config: DictConfig = field(default_factory=OmegaConf.create)  # empty if it never started
    untracked: Optional[str] = None  # why it is not, or not all of it, in MLflow


def read_runs(folder: Path, sweep: dict[str, Any]) -> list[Run]:
    runs = []
    for point in sweep["points"]:
        run = RunFolder(folder / point["folder"])
        status = run.status()
        provenance = run.provenance()
        facts = {f"{m}.{k}": v for m, found in provenance.get("metrics", {}).items() for k, v in found.items()}
        facts |= {f"judge.{k}": v for k, v in judge_facts(run).items()}
        runs.append(
            Run(
                point["folder"],
                status.get("state", "missing"),
                status.get("error"),
                by_key(point["overrides"]),
                run.summary(),
                facts,
                provenance.get("not_scored", {}),
                _config_of(run, Path(sweep["cwd"])),
                status.get("tracking"),
            )
        )
    return runs


def by_key(overrides: Sequence[str]) -> dict[str, str]:
    """A point's overrides: key -> value."""
    return {key.lstrip("+"): value for key, _, value in (o.partition("=") for o in overrides)}


def _config_of(run: RunFolder, cwd: Path) -> DictConfig:
    """A run's config as it was composed where `cwd` is; empty if it never started."""
    started = (run.path / ".hydra" / "config.yaml").is_file()
    return recorded_config(run, cwd) if started else OmegaConf.create()


def write_comparison(folder: Path, runs: Sequence[Run]) -> None:
    """comparison.csv: a row a run, ok or not; every column any run has: overrides, state, error, facts, numbers.

    Model, quantisation and task as they were given, else what the config names."""
    rows = []
    for run in runs:
        names = {group: name for group in GROUPS if (name := config.text_at(run.config, group)) is not None}
        ended = {"state": run.state, "error": run.error}
        rows.append({"run": run.folder, **names, **run.overrides, **ended, **run.facts, **run.summary})
    numbers = {name for run in runs for name in run.summary}
    texts = [c for c in dict.fromkeys(["run", *GROUPS, *(key for row in rows for key in row)]) if c not in numbers]
    with open(folder / "comparison.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, texts + sorted(numbers), restval="")
        writer.writeheader()
        writer.writerows({k: neutral(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows)


def not_comparable(runs: Sequence[Run]) -> list[Reason]:
    """A sentence for each metric whose numbers come from different makers, e.g. two grammar checkers or judges."""
    sentences = []
    for fact in dict.fromkeys(name for run in runs for name in run.facts):
        metric = fact.partition(".")[0]
        scored = [r for r in runs if fact in r.facts and metric not in r.not_scored]
        makers = Counter(str(r.facts[fact]) for r in scored)
        if len(makers) > 1:
            which = [Reason("maker", maker=maker, count=count) for maker, count in makers.most_common()]
            sentences.append(Reason("differs", metric=metric, fact=fact, makers=which))
    return sentences


def not_scored(runs: Sequence[Run]) -> list[Reason]:
    """A sentence for each metric that gave no number at all, with its reason and in how many runs."""
    why = Counter((metric, reason) for run in runs for metric, reason in run.not_scored.items())
    return [
        Reason("not_scored", metric=metric, count=count, total=len(runs), why=reason)
        for (metric, reason), count in why.items()
    ]


def in_several_goes(summary: Mapping[str, float]) -> bool:
    """Whether a run was resumed while it answered: its tokens/s is no one batch's."""
    return RATE in summary and summary.get(BATCHES, 1) > 1


def ended_as(states: Sequence[str]) -> str:
    """How many runs ended how, in words."""
    count = Counter(states)
    ok = count.pop("ok", 0)
    others = sorted(count, key=lambda state: (state == "missing", state))
    return ", ".join([f"{ok} of {len(states)} runs ok", *(f"{count[state]} {_in_words(state)}" for state in others)])


def _in_words(state: str) -> str:
    return NOT_BEGUN if state == "missing" else state


def closing_table(folder: Path, runs: Sequence[Run], how_to_open: Optional[str], more: Sequence[str] = ()) -> str:
    """What a person sees at the end: a row a run, ok or why not, the headline numbers, `more`, and where to look."""
    shown = {k: v for k, v in HEADLINES.items() if any(k in run.summary for run in runs)}
    with_common = [r.summary for r in runs if COMMON in r.summary]
    if all(numbers[f"{COMMON}_n"] == numbers.get("judge/match_ratio_n") for numbers in with_common):
        shown.pop(COMMON, None)  # all runs have the same answers: it would say the same again
    if not any(run.summary.get(CUT_OFF) for run in runs):
        shown.pop(CUT_OFF, None)
    rows = []
    for r in runs:
        numbers = (form.format(r.summary[k]) if k in r.summary else "" for k, (_, form) in shown.items())
        rows.append([r.folder, _in_words(r.state), *numbers])
    lines = [text_table(["run", "state", *(head for head, _ in shown.values())], rows)]
    lines += [f"{r.folder}: {r.error}" for r in runs if r.error]
    lines += [*not_scored(runs), *not_comparable(runs)]
    if several := [r.folder for r in runs if in_several_goes(r.summary)]:
        lines.append(f"tokens/s of {', '.join(several)}: made in several goes, the number is over all of them")
    lines += more
    if untracked := [r.untracked for r in runs if r.untracked]:
        lines.append(f"{len(untracked)} of {len(runs)} runs are not, or not all, in MLflow: {untracked[0]}")
        lines.append(f"scripts/mlflow-import {folder} brings them in.")
    lines.append(f"Results: {folder}/comparison.csv, one folder a run beside it.")
    if how_to_open and len(untracked) < len(runs):
        lines.append(how_to_open)
    lines.append(ended_as([r.state for r in runs]))
    return "\n".join(lines)
