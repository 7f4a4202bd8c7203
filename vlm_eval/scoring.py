"""The stage after the engine: metrics over all answers. It needs no model under test."""

from __future__ import annotations

from collections import Counter
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vlm_eval import addresses, config, rows
from vlm_eval.metrics.base import Answered
from vlm_eval.progress import Reporter
from vlm_eval.rows import Item
from vlm_eval.store import RunFolder, sha256_of, write_json


def score(cfg: DictConfig, items: dict[str, Item], folder: RunFolder, report: Reporter) -> None:
    """All metrics over all answers: scores.jsonl, and summary.json without the judge's part.

    In provenance.json `metrics` says what each metric's numbers depend on, `not_scored` which gave none at all and why.
    """
    known = folder.provenance()
    scored_from = addresses.of_scores(
        OmegaConf.to_container(cfg.metrics, resolve=True),
        known.get("engine", {}),
        sha256_of(*(folder.path / f"{kind}.jsonl" for kind in ("items", "answers", "latency", "load"))),
    )
    if known.get("scored_from") == scored_from:  # written last: all is scored already
        return
    metrics = {name: config.build(cfg.metrics[name]) for name in cfg.metrics}
    report.ask_for_one_card("score", [m.card_gib() for m in metrics.values() if hasattr(m, "card_gib")])
    answers = folder.read("answers")
    facts_of_engine = folder.provenance().get("engine", {})
    data = Answered(items, answers, folder.read("latency"), facts_of_engine, folder.read("load"))
    values: dict[tuple[str, int], dict[str, Any]] = {(a.item_id, a.repeat): {} for a in answers}
    reasons: dict[tuple[str, int], dict[str, str]] = {key: {} for key in values}
    facts, not_scored = {}, {}
    for number, (name, metric) in enumerate(metrics.items(), start=1):
        report("score", number, len(metrics), name)
        found = metric.score(data)
        for key, columns in found.items():
            if isinstance(columns, str):
                reasons[key][name] = columns
            else:
                values[key].update(columns)
        why = Counter(columns for columns in found.values() if isinstance(columns, str))
        if why.total() == len(answers):
            not_scored[name] = why.most_common(1)[0][0]
        facts[name] = dict(metric.facts())
    scores = [rows.Score(i, r, values[i, r], reasons[i, r]) for i, r in values]
    folder.replace("scores", scores)
    summary: dict[str, float] = {}
    for name, metric in metrics.items():
        if name not in not_scored:
            summary |= metric.summarise(data, scores)
    write_json(folder.path / "summary.json", summary)
    folder.provenance(metrics=facts, not_scored=not_scored, scored_from=scored_from)
