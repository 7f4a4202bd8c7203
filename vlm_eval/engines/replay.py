"""No model: the answers of an earlier result, so that it can be scored and judged again without a GPU."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

from vlm_eval.engines import recorded
from vlm_eval.engines.base import Candidate, Engine, Request
from vlm_eval.engines.matching import match
from vlm_eval.engines.recorded import Recorded, Row
from vlm_eval.errors import BadInput
from vlm_eval.rows import Answer, Item, Latency
from vlm_eval.tasks.base import Task

BLOCK = 1000  # rows handed on at a time
# What only the process that ran the model could measure; a table says nothing of it.
MEASURED = (
    *("generation_wall_s", "generation_output_tokens", "generation_batches", "engine_start_s", "weights_gib"),
    *("kv_bytes_per_token", "host_peak_gib", "gpu_peak_gib", "gpu_peak_of"),
    *("batch_energy_j", "batch_energy_answers", "alone_energy_j", "alone_energy_answers"),
)


@dataclass
class ReplayEngineConfig:
    _target_: str = "???"
    path: str = "???"
    candidate: Optional[str] = None
    columns: Dict[str, str] = field(default_factory=dict)
    quant_by_ending: Dict[str, str] = field(default_factory=dict)
    tracking_uri: Optional[str] = None


def candidates(config: ReplayEngineConfig, task: str) -> list[str]:
    """What engine.candidate=all stands for: the candidates of a table, or the runs of a sweep that had this task."""
    if recorded.is_sweep(config.path):
        found = recorded.runs_of(config.path, task)
        if not found:
            raise BadInput(
                f"engine.path={config.path}: no run of task={task} with answers in that sweep; give its task="
            )
        return found
    if recorded.run_folder(config.path, None, config.tracking_uri):
        raise BadInput(f"engine.candidate=all: {config.path} is one run; leave engine.candidate out")
    found = recorded.models_of(config.path, config.columns)
    if not found:
        raise BadInput(
            f"engine.candidate=all: {config.path} has no column {config.columns.get('model')!r} to tell them by"
        )
    return found


def identity(config: ReplayEngineConfig) -> tuple[str, str]:
    """(model, quantisation) that gave the answers: of a run folder its own, of a table by the candidate's name."""
    folder = recorded.run_folder(config.path, config.candidate, config.tracking_uri)
    if folder:
        was = recorded.recorded_config(folder)
        return was.model.name, was.quant.name
    name = config.candidate or Path(config.path).stem
    for ending, quant in sorted(config.quant_by_ending.items(), key=lambda pair: -len(pair[0])):
        if name.endswith(ending):
            return name.removesuffix(ending), quant
    return name, "recorded"


def data_root(path: str, tracking_uri: Optional[str], layouts: Mapping[str, Any]) -> Optional[str]:
    """The recorded run's data, or the folder of the table if it holds a data set; None: the answers do not tell."""
    try:
        if recorded.is_sweep(path):
            path = str(Path(path) / recorded.runs_of(path)[0])
        folder = recorded.run_folder(path, None, tracking_uri)
    except (BadInput, LookupError):
        return None
    if folder:
        return folder.provenance().get("data_root")
    beside = Path(path).parent
    tables = ((beside / layout.table, beside / layout.images) for layout in layouts.values())
    return str(beside) if any(table.is_file() and images.is_dir() for table, images in tables) else None


class ReplayEngine(Engine):
    """Hands out what is recorded; an item or repeat that is not is a failed answer."""

    def __init__(self, config: ReplayEngineConfig, candidate: Candidate):
        if config.candidate == "all":
            raise BadInput("engine.candidate=all: a sweep over all candidates; it needs -m")
        self.config = config
        self._found: dict[tuple[str, int], Row] = {}

    def check(self, task: Task, items: Sequence[Item]) -> Optional[float]:
        """Every recorded row must belong to an item of the data, and no two to the same answer."""
        folder = self._folder
        if folder and (was := recorded.recorded_config(folder).task.name) != task.config.name:
            raise BadInput(
                f"{self.config.path}: answers of task={was}, this is task={task.config.name}; give task={was}"
            )
        for item in items:
            seen = self._recorded.image_sha256.get(item.item_id)
            if seen and seen != item.image_sha256:
                raise BadInput(
                    f"{self.config.path}: item {item.item_id} was answered about another picture than {item.image}"
                )
        found, strangers = match(self.config.path, self._recorded.rows, items)
        # Rows about pictures that cannot be read go with them, where that was asked for.
        if not found or (strangers and task.config.on_bad_item != "record"):
            row = strangers[0]
            what = row.answer.item_id or " ".join(filter(None, (row.image, row.question)))
            raise BadInput(
                f"{self.config.path}: {len(strangers)} of {len(self._recorded.rows)} answers are about items that "
                f"task.data.root={task.config.data.root} does not have; the first: {what!r} ({row.where})"
            )
        return 0.0

    def inputs(self) -> Mapping[str, str]:
        return {"answers_sha256": self._recorded.sha256}

    def repeats(self, asked: int) -> Sequence[int]:
        return sorted({row.answer.repeat for row in self._recorded.rows})

    def alone(self, requests: Sequence[Request]) -> Sequence[Request]:
        self._load(requests)
        return [r for r in requests if (r.item_id, r.repeat) in self._found and self._row(r).latency]

    def start(self) -> dict[str, Any]:
        measured = {name: self._recorded.engine.get(name) for name in MEASURED}
        rows = len(self._recorded.rows)
        return {
            **self._recorded.engine,
            **measured,
            "replayed_from": str(self.config.path),
            "answers_sha256": self._recorded.sha256,
            "found": f"{rows} recorded answers",
        }

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        self._load(requests)
        for begin in range(0, len(requests), BLOCK):
            yield [self._answer(request) for request in requests[begin : begin + BLOCK]]

    def time_alone(self, requests: Sequence[Request]) -> Iterator[list[Latency]]:
        for begin in range(0, len(requests), BLOCK):
            yield [replace(self._row(r).latency, item_id=r.item_id) for r in requests[begin : begin + BLOCK]]

    def stop(self) -> None:
        pass

    def _answer(self, request: Request) -> Answer:
        if (request.item_id, request.repeat) not in self._found:
            key = (request.item_id, request.repeat, request.cluster)
            return Answer(*key, None, error=f"no answer recorded in {Path(self.config.path).name}")
        return replace(self._row(request).answer, item_id=request.item_id, cluster=request.cluster)

    def _row(self, request: Request) -> Row:
        return self._found[request.item_id, request.repeat]

    def _load(self, requests: Sequence[Request]) -> None:
        if not self._found:
            self._found, _ = match(self.config.path, self._recorded.rows, requests)

    @functools.cached_property
    def _folder(self):
        return recorded.run_folder(self.config.path, self.config.candidate, self.config.tracking_uri)

    @functools.cached_property
    def _recorded(self) -> Recorded:
        return recorded.read(self.config.path, self.config.columns, self.config.candidate, self.config.tracking_uri)
