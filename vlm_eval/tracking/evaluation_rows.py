"""Every answer of a run as one evaluation row in MLflow: a trace with judgements, scores and reference as assessments.

Rows of two runs pair by item, screenshot, question and repeat. They are written with MLflow's tracing API, not with
mlflow.genai.evaluate: that writes each assessment by itself and loses rows where its connection pool overflows. What
the store has is counted afterwards; a gap is filled, and if it stays it is an error.
"""

from __future__ import annotations

import base64
import functools
import os
import random
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from vlm_eval import images, judging
from vlm_eval.judges.base import SOURCE
from vlm_eval.rows import Answer
from vlm_eval.statistics.by_answer import scores_by_answer
from vlm_eval.store import RunFolder
from vlm_eval.tracking.answers_table import name_of
from vlm_eval.tracking.assessments import MARK, expected, hash_of, judged, marked, measured
from vlm_eval.tracking.storable import storable

ATTEMPTS = 3
PAGE = 500  # traces a request
CONTENT = "vlm_eval.content"  # tag of a trace: hash of what was asked and answered
PAIR_TAG = "mlflow.eval.requestId"  # MLflow's page pairs rows of two runs by it
TOKENS = "mlflow.chat.tokenUsage"


@dataclass(frozen=True)
class Row:
    """One answer as MLflow shows it."""

    name: str  # item and repeat
    pair: str  # equal for the same question to the same screenshot in another run
    inputs: dict[str, Any]
    image: Optional[Path]
    answer: Answer
    assessments: list[Any]  # of mlflow.entities

    @property
    def content(self) -> str:
        return hash_of([self.pair, self.answer.text, self.answer.error, self.image is not None])


def log_rows(
    client: Any, run_id: str, experiment_id: str, folder: RunFolder, root: Path, screenshots: bool, tags: dict[str, str]
) -> int:
    """Write what is missing, mend what differs; how many rows the run has. RuntimeError where a gap stays."""
    rows = rows_of(folder, root if screenshots else None)
    names, written = {row.name for row in rows}, set()
    for attempt in range(ATTEMPTS + 1):
        stored = stored_traces(client, run_id, experiment_id)
        gaps = [row for row in rows if not _is_whole(row, stored.get(row.name, ()))]
        strangers = {t.trace_id for name, traces in stored.items() if name not in names for t in traces}
        # A trace of which only the first half could be written belongs to no run, and would stay on the page.
        halves = written - {t.trace_id for traces in stored.values() for t in traces}
        _delete(client, experiment_id, strangers | halves)
        if not gaps:
            return len(rows)
        if attempt == ATTEMPTS:
            break
        with _tracing_to(client.tracking_uri):
            # The page lists the newest first: logged backwards, the first item stands on top.
            for row in reversed(gaps):
                written.add(_mend(client, run_id, experiment_id, row, stored.get(row.name, ()), tags))
    lacking = ", ".join(row.name for row in gaps[:3])
    raise RuntimeError(
        f"{len(gaps)} of {len(rows)} answers are not whole in MLflow after {ATTEMPTS} attempts, the first: {lacking}"
    )


def rows_of(folder: RunFolder, root: Optional[Path]) -> list[Row]:
    """A row an answer, by item and repeat; screenshots are below `root`, None leaves them out."""
    items = {item.item_id: item for item in folder.read("items")}
    answers = sorted(folder.read("answers"), key=lambda a: (a.item_id, a.repeat))
    timed = {(x.item_id, x.repeat): x for x in folder.read("latency")}
    scores = {(s.item_id, s.repeat): s for s in folder.read("scores")}
    judgements = defaultdict(list)
    for j in folder.read("judgements"):
        judgements[j.item_id, j.repeat].append(j)
    matches = scores_by_answer(judging.judgements_of(folder, judging.main_judge(folder)), answers)
    kinds = _kinds_of_judges(folder)
    rows = []
    for answer in answers:
        key, item = (answer.item_id, answer.repeat), items[answer.item_id]
        image = root / item.image if root and not item.error else None
        said = [judged(j, kinds.get(j.judge, SOURCE)) for j in judgements[key]]
        said += measured(matches.get(key), scores.get(key), timed.get(key))
        inputs = {"item": item.item_id, "repeat": answer.repeat, "question": item.question, "screenshot": item.image}
        pair = hash_of([item.item_id, answer.repeat, item.image_sha256, item.question])
        rows.append(
            Row(
                name=storable(name_of(*key)),
                pair=pair,
                inputs=storable({k: v for k, v in inputs.items() if v is not None}),
                image=image,
                answer=replace(answer, text=storable(answer.text), error=storable(answer.error)),
                assessments=[marked(a, place) for place, a in enumerate([*said, *expected(item)])],
            )
        )
    return rows


def stored_traces(client: Any, run_id: str, experiment_id: str) -> dict[str, list[Any]]:
    """Name of a row -> the run's traces of it that this module wrote (TraceInfo, with assessments)."""
    found, token = defaultdict(list), None
    while True:
        page = client.search_traces(
            locations=[experiment_id], run_id=run_id, include_spans=False, max_results=PAGE, page_token=token
        )
        for trace in page:
            if CONTENT in trace.info.tags:
                found[trace.info.client_request_id].append(trace.info)
        if not (token := page.token):
            return found


def _is_whole(row: Row, traces: list[Any]) -> bool:
    if len(traces) != 1 or traces[0].tags[CONTENT] != row.content:
        return False
    return sorted(a.metadata[MARK] for a in _ours(traces[0])) == sorted(a.metadata[MARK] for a in row.assessments)


def _ours(trace: Any) -> list[Any]:
    """The assessments that this module wrote; what people added on the page is theirs."""
    return [a for a in trace.assessments if a.metadata and MARK in a.metadata]


def _mend(client: Any, run_id: str, experiment_id: str, row: Row, traces: list[Any], tags: dict[str, str]) -> str:
    """The trace anew where it is missing, double or of another answer, else the assessments that differ; its id."""
    import mlflow

    if len(traces) == 1 and traces[0].tags[CONTENT] == row.content:
        lacking = {a.metadata[MARK]: a for a in row.assessments}
        for there in _ours(traces[0]):
            if lacking.pop(there.metadata[MARK], None) is None:  # of another judgement, or the second of one
                mlflow.delete_assessment(traces[0].trace_id, there.assessment_id)
        for assessment in lacking.values():
            mlflow.log_assessment(traces[0].trace_id, assessment)
        return traces[0].trace_id
    _delete(client, experiment_id, {trace.trace_id for trace in traces})
    return _write(run_id, experiment_id, row, tags)


def _write(run_id: str, experiment_id: str, row: Row, tags: dict[str, str]) -> str:
    import mlflow
    from mlflow.entities import SpanStatus, SpanStatusCode
    from mlflow.tracing.provider import safe_set_span_in_context

    answer, inputs, now = row.answer, dict(row.inputs), time.time_ns()
    if row.image is not None and (shown := data_uri(str(row.image))):
        inputs["screenshot"] = shown  # MLflow keeps it as an attachment and shows it
    # Begun and ended in one moment: most answers come out of a batch and have no time of their own. Those timed alone
    # have an assessment latency_s.
    span = mlflow.start_span_no_context(
        "answer",
        inputs=inputs,
        start_time_ns=now,
        experiment_id=experiment_id,
        tags={**tags, PAIR_TAG: row.pair, CONTENT: row.content},
        metadata={"mlflow.sourceRun": run_id},
    )
    if answer.prompt_tokens is not None and answer.output_tokens is not None:
        counts = (answer.prompt_tokens, answer.output_tokens)
        names = ("input_tokens", "output_tokens", "total_tokens")
        span.set_attribute(TOKENS, dict(zip(names, (*counts, sum(counts)), strict=True)))
    with safe_set_span_in_context(span):  # assessments of the active trace are stored together with it
        mlflow.update_current_trace(
            client_request_id=row.name,
            request_preview=" · ".join(filter(None, (row.name, row.inputs.get("question")))),
            response_preview=answer.text if answer.text is not None else f"no answer: {answer.error}",
        )
        for assessment in row.assessments:
            mlflow.log_assessment(span.trace_id, assessment)
    if answer.text is None:
        span.set_status(SpanStatus(SpanStatusCode.ERROR, answer.error or ""))
    span.end(outputs=answer.text, end_time_ns=now)
    return span.trace_id


def _kinds_of_judges(folder: RunFolder) -> Mapping[str, str]:
    """Name in the judgements -> what kind of source MLflow calls it."""
    entries = judging.judges_of(folder).values()
    return {name: entry.get("source", SOURCE) for entry in entries for name in entry["names"]}


def _delete(client: Any, experiment_id: str, trace_ids: set[str]) -> None:
    ids = sorted(trace_ids)
    for start in range(0, len(ids), 100):  # as many as the store takes at once
        client.delete_traces(experiment_id, trace_ids=ids[start : start + 100])


@functools.lru_cache(maxsize=64)  # repeats and questions share a screenshot
def data_uri(image: str) -> Optional[str]:
    try:
        return "data:image/jpeg;base64," + base64.b64encode(images.thumbnail(Path(image))).decode()
    except images.UNREADABLE:
        return None


@contextmanager
def _tracing_to(uri: str) -> Iterator[None]:
    """MLflow's tracing knows one store for the whole process, by default writes behind our back, and draws the ids of
    traces from Python's random numbers: vLLM seeds those alike in every run, whose traces would then be the same."""
    import mlflow

    before, waits = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING")
    numbers = random.getstate()
    random.seed()
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        random.setstate(numbers)
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING")
        if waits is not None:
            os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = waits
