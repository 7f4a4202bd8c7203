"""The rows that pass between stages, and nothing else does. One row is one line of JSON in a run's folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional


@dataclass(frozen=True)
class Item:
    """One thing to answer. `cluster` is the screenshot: items of one cluster are not independent."""

    item_id: str
    cluster: str
    image: str  # path below the data root, with forward slashes
    question: Optional[str] = None
    reference: Optional[str] = None
    facts: tuple[str, ...] = ()
    device: Optional[str] = None
    screen_text: Optional[str] = None  # all words on the screen, where known
    image_sha256: Optional[str] = None
    width: Optional[int] = None
    height: Optional[int] = None
    error: Optional[str] = None  # why this item cannot be asked (task.on_bad_item=record)
    no_reference: Optional[str] = None  # why reference.run gave it none


@dataclass(frozen=True)
class Answer:
    """The candidate's answer to one repeat of one item; `text` is None exactly when `error` says why."""

    item_id: str
    repeat: int
    cluster: str
    text: Optional[str]
    finish_reason: Optional[str] = None
    prompt_tokens: Optional[int] = None
    output_tokens: Optional[int] = None
    seed: Optional[int] = None
    error: Optional[str] = None
    visual_tokens: Optional[int] = None
    resized: Optional[tuple[int, int]] = None  # width, height in pixels as the vision tower saw them
    cost_usd: Optional[float] = None  # paid for in this run: 0 for one from the cache; None: free, or of unknown price
    batch: Optional[str] = None  # when the batch began that it was made in; one for each attempt at the run
    finished_s: Optional[float] = None  # after that
    inputs: Optional[str] = None  # address of what it follows from (vlm_eval.addresses)
    cached_tokens: Optional[int] = None  # of the prompt's, those that an earlier prompt had computed


def failed_if_empty(answer: Answer) -> Answer:
    """An answer of no letters is a failed one: scored as text it would count as a bad answer, or a short one."""
    if answer.text is None or answer.text.strip():
        return answer
    return dataclasses.replace(answer, text=None, error="the answer is empty")


@dataclass(frozen=True)
class Latency:
    """One answer timed alone: seconds from sending to the last and to the first token, and until picture and prompt
    were prepared, which is work of the CPU."""

    item_id: str
    latency_s: Optional[float]
    ttft_s: Optional[float] = None
    output_tokens: Optional[int] = None
    chars: Optional[int] = None
    error: Optional[str] = None
    repeat: int = 0
    cost_usd: Optional[float] = None
    prepare_s: Optional[float] = None
    inputs: Optional[str] = None  # address of what it follows from (vlm_eval.addresses)


@dataclass(frozen=True)
class UnderLoad:
    """One request of a level of load. Its clock starts when it is handed to the engine; where requests arrive at a
    rate, when it was to arrive."""

    kind: str  # "concurrency": `level` requests under way at once; "rate": `level` arrive a second
    level: float
    number: int  # of the request in its level, from 0
    item_id: str
    repeat: int
    sent_s: float  # handed to the engine, seconds since the level began
    planned_s: Optional[float] = None  # was to arrive, likewise; None in "concurrency"
    latency_s: Optional[float] = None  # None exactly when `error` says why
    ttft_s: Optional[float] = None
    itl_s: tuple[float, ...] = ()  # between one arrival of tokens and the next
    output_tokens: Optional[int] = None
    error: Optional[str] = None
    inputs: Optional[str] = None  # address of what it follows from (vlm_eval.addresses)

    @property
    def level_name(self) -> str:
        """As names in summary.json have it: c16, r0.5."""
        return f"{self.kind[0]}{self.level:g}"


@dataclass(frozen=True)
class Sample:
    """What was in use at one moment while answers were made; the tuples have a number for each visible GPU."""

    time_s: float  # since 1970
    cpu_percent: float  # of all cores, whoever uses them
    host_gib: float  # resident memory of the run's processes
    gpu_percent: tuple[float, ...] = ()
    gpu_gib: tuple[float, ...] = ()


@dataclass(frozen=True)
class Score:
    """What the metrics say of one answer; a column that could not be scored is None and named in `unscored`."""

    item_id: str
    repeat: int
    values: Mapping[str, Any] = field(default_factory=dict)
    unscored: Mapping[str, str] = field(default_factory=dict)  # metric -> reason


@dataclass(frozen=True)
class Judgement:
    """One verdict of one judge. Only `status == "ok"` enters a mean; the others say why in `rationale` or `error`."""

    item_id: str
    repeat: int
    judge: str
    order: str  # "ab": candidate shown first, "ba": second, "single": alone; of people "shuffled", of tables "unknown"
    judge_repeat: int
    saw_image: bool
    candidate_score: Optional[float]
    reference_score: Optional[float]
    rationale: Optional[str]
    status: str  # ok | invalid | refused | error | over_budget; not_asked: there is no answer or no reference
    tokens: Optional[int] = None
    cost_usd: Optional[float] = None
    error: Optional[str] = None
    cached: bool = False  # taken from the disk, nothing was sent
    flag: Optional[str] = None  # the words by which the answer seems to instruct its judge
    inputs: Optional[str] = None  # address of what it follows from (vlm_eval.addresses)


def to_dict(row: Any) -> dict[str, Any]:
    """A row as it is written; a Score is flat: its columns stand beside its key."""
    if isinstance(row, Score):
        flat: dict[str, Any] = {"item_id": row.item_id, "repeat": row.repeat, **row.values}
        return {**flat, "unscored": dict(row.unscored)} if row.unscored else flat
    return dataclasses.asdict(row)


def from_dict(kind: type, data: Mapping[str, Any]) -> Any:
    """The row that was written; columns of a later version are left out, not an error."""
    if kind is Score:
        values = {k: v for k, v in data.items() if k not in ("item_id", "repeat", "unscored")}
        return Score(data["item_id"], data["repeat"], values, data.get("unscored", {}))
    known = {f.name for f in dataclasses.fields(kind)}
    fixed = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
    return kind(**fixed)
