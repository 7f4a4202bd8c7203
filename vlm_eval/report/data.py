"""What a report is made of: a sweep's folders read once, in one order, with one name a candidate."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, Sequence

from vlm_eval import config, judging, resolvers
from vlm_eval.comparison import Run, not_comparable, not_scored, read_runs
from vlm_eval.errors import BadInput
from vlm_eval.reasons import Reason
from vlm_eval.rows import Answer, Item, Judgement, Latency, Score
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.statistics.paired import Rows
from vlm_eval.store import RunFolder, read_json

Key = tuple[str, int]  # (item_id, repeat)


@dataclass(frozen=True)
class Candidate:
    """One run as a report shows it; one that failed keeps what rows it has."""

    run: Run
    label: str  # unique among the runs of its task, and the same in both tasks: "Qwen2-VL-7B awq"
    task: str
    model: str
    quant: str
    items: dict[str, Item]
    answers: dict[Key, Answer]
    latencies: list[Latency]
    scores: dict[Key, Score]
    judges: dict[str, list[Judgement]]  # name of a judge or panel -> its judgements, the main one first
    data_root: Path
    provenance: dict[str, Any]

    @property
    def ok(self) -> bool:
        return self.run.state == "ok"

    @property
    def summary(self) -> dict[str, float]:
        return self.run.summary

    @cached_property
    def judge(self) -> Optional[str]:
        """The main judge's name."""
        return next(iter(self.judges), None)

    @cached_property
    def judgements(self) -> list[Judgement]:
        """Those of the main judge."""
        return self.judges[self.judge] if self.judge else []

    @cached_property
    def matches(self) -> Rows:
        """(item_id, repeat) -> cluster, candidate's score, reference's score, where the main judge gave both."""
        return scores_by_answer(self.judgements, list(self.answers.values()))

    @cached_property
    def keys_of(self) -> dict[str, list[Key]]:
        """item_id -> its answers' keys, in the order of repeats."""
        found: dict[str, list[Key]] = defaultdict(list)
        for key in sorted(self.answers):
            found[key[0]].append(key)
        return found

    @cached_property
    def timed(self) -> dict[Key, Latency]:
        """(item_id, repeat) -> how long it took alone."""
        return {(x.item_id, x.repeat): x for x in self.latencies}

    @cached_property
    def judgements_of(self) -> dict[Key, list[Judgement]]:
        """(item_id, repeat) -> what all judges said, the main one first."""
        found: dict[Key, list[Judgement]] = defaultdict(list)
        for j in (j for judgements in self.judges.values() for j in judgements):
            found[j.item_id, j.repeat].append(j)
        return found

    def score(self, key: Key, column: str) -> Any:
        """One column of one answer's scores; None where it has none."""
        return self.scores[key].values.get(column) if key in self.scores else None


@dataclass(frozen=True)
class SweepData:
    folder: Path
    sweep: dict[str, Any]  # sweep.json
    candidates: list[Candidate]  # all runs, in the order of the sweep
    notes: list[Reason] = field(default_factory=list)  # what must not be compared, and what has no numbers

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(c.task for c in self.candidates))

    @property
    def labels(self) -> list[str]:
        """All candidates' names, in the one order that every table and plot keeps."""
        return list(dict.fromkeys(c.label for c in self.candidates))

    def of(self, task: str) -> list[Candidate]:
        return [c for c in self.candidates if c.task == task]

    def items(self, task: str) -> dict[str, Item]:
        """item_id -> item, of any run of the task that has it."""
        return {name: item for c in reversed(self.of(task)) for name, item in c.items.items()}


def read_sweep(folder: Path) -> SweepData:
    """All runs of a finished (or stopped) sweep; BadInput where there is none."""
    sweep = read_json(folder / "sweep.json")
    if not sweep:
        raise BadInput(f"{folder}: no sweep.json here; give the folder of a sweep")
    resolvers.register_resolvers()  # the names of a replayed model and quant need them
    runs = read_runs(folder, sweep)
    labels = _labels(runs)
    candidates = [_read(folder, run, labels[run.folder]) for run in runs]
    return SweepData(folder, sweep, candidates, [*not_scored(runs), *not_comparable(runs)])


def _read(folder: Path, run: Run, label: str) -> Candidate:
    rows = RunFolder(folder / run.folder)
    main = judging.main_judge(rows)
    names = sorted(judging.judges_of(rows), key=lambda name: name != main)
    provenance = rows.provenance()
    return Candidate(
        run=run,
        label=label,
        task=_name(run, "task"),
        model=_name(run, "model"),
        quant=_name(run, "quant"),
        items={i.item_id: i for i in rows.read("items")},
        answers={(a.item_id, a.repeat): a for a in rows.read("answers")},
        latencies=rows.read("latency"),
        scores={(s.item_id, s.repeat): s for s in rows.read("scores")},
        judges={name: judging.judgements_of(rows, name) for name in names},
        data_root=Path(provenance.get("data_root", "")),
        provenance=provenance,
    )


def _name(run: Run, group: str) -> str:
    """What the config names, else what was asked for: a run that never started has no config."""
    return str(config.text_at(run.config, group) or run.overrides.get(group) or "?")


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """folder -> model and quantisation, and the overrides that tell runs apart where these two do not."""
    plain = {run.folder: f"{_name(run, 'model')} {_name(run, 'quant')}" for run in runs}
    count = Counter((plain[run.folder], _name(run, "task")) for run in runs)
    labels = {}
    for run in runs:
        same = [r for r in runs if plain[r.folder] == plain[run.folder]]
        more = [
            f"{key}={value}"
            for key, value in run.overrides.items()
            if key not in ("task", "model", "quant") and any(r.overrides.get(key) != value for r in same)
        ]
        twice = count[plain[run.folder], _name(run, "task")] > 1
        labels[run.folder] = " ".join([plain[run.folder], *more]) if twice else plain[run.folder]
    return labels
