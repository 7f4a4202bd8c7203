"""Evaluation rows into MLflow, each a trace, counted afterwards.

Rows of two runs pair by item, screenshot, question and repeat. They are written with MLflow's tracing API, not with
mlflow.genai.evaluate: that writes each assessment by itself and loses rows where its connection pool overflows. What
the store has is counted; a gap is filled, and if it stays it is an error.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Optional

from vlm_eval.store import RunFolder
from vlm_eval.tracking.assessments import MARK
from vlm_eval.tracking.evaluation_rows import Row, data_uri, rows_of

ATTEMPTS = 3  # in a row that gain nothing
SPAN = "answer"
NAME_TAG = "mlflow.traceName"
HALF_IS_OLD_S = 600  # what is younger may be the first half of a trace that another process is writing
PAGE = 500  # traces a request
CONTENT = "vlm_eval.content"  # tag of a trace: hash of what was asked and answered
PAIR_TAG = "mlflow.eval.requestId"  # MLflow's page pairs rows of two runs by it
TOKENS = "mlflow.chat.tokenUsage"


class Failure(NamedTuple):
    """A row that could not be written: its trace, of which the first half may be there, and why."""

    trace_id: str
    reason: str


def log_rows(
    client: Any, run_id: str, experiment_id: str, folder: RunFolder, root: Path, screenshots: bool, tags: dict[str, str]
) -> int:
    """Write what is missing, mend what differs; how many rows the run has. RuntimeError where a gap stays."""
    rows = rows_of(folder, root if screenshots else None)
    names = {row.key for row in rows}
    _delete(client, experiment_id, _old_halves(client, experiment_id))
    failed: Optional[Failure] = None
    before, without_gain = len(rows) + 1, 0
    while True:
        stored = stored_traces(client, run_id, experiment_id)  # raises where the server is gone
        gaps = [row for row in rows if not _is_whole(row, stored.get(row.key, ()))]
        strangers = {t.trace_id for key, traces in stored.items() if key not in names for t in traces}
        _delete(client, experiment_id, strangers | ({failed.trace_id} if failed else set()))
        if not gaps:
            return len(rows)
        without_gain = 0 if len(gaps) < before else without_gain + 1
        before = len(gaps)
        if without_gain == ATTEMPTS:
            break
        with _tracing_to(client.tracking_uri):
            failed = _mend_all(client, run_id, experiment_id, gaps, stored, tags)
    lacking = ", ".join(row.name for row in gaps[:3])
    why = f": {failed.reason}" if failed else ""
    raise RuntimeError(f"{len(gaps)} of {len(rows)} answers are not whole in MLflow, the first {lacking}{why}")


def _mend_all(
    client: Any, run_id: str, experiment_id: str, gaps: list[Row], stored: Mapping[str, list[Any]], tags: dict[str, str]
) -> Optional[Failure]:
    """Stops at the first row that could not be written: a server that is gone takes many seconds to say so."""
    with _failures() as said:
        # The page lists the newest first: logged backwards, the first item stands on top.
        for row in reversed(gaps):
            trace_id = _mend(client, run_id, experiment_id, row, stored.get(row.key, ()), tags)
            if said:
                return Failure(trace_id, said[0])
    return None


def stored_traces(client: Any, run_id: str, experiment_id: str) -> dict[str, list[Any]]:
    """Key of a row -> the run's traces of it that this module wrote (TraceInfo, with assessments)."""
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


def _old_halves(client: Any, experiment_id: str) -> set[str]:
    """Traces of which only the span was written before their process died: nameless and of no run, they would stay on
    the page for ever."""
    latest = int(1000 * (time.time() - HALF_IS_OLD_S))
    found = client.search_traces(locations=[experiment_id], filter_string="trace.name IS NULL", max_results=PAGE)
    return {
        t.info.trace_id
        for t in found
        if t.info.request_time < latest and t.data.spans and t.data.spans[0].name == SPAN
        if "mlflow.sourceRun" not in t.info.trace_metadata
    }


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
        SPAN,
        inputs=inputs,
        start_time_ns=now,
        experiment_id=experiment_id,
        tags={**tags, NAME_TAG: SPAN, PAIR_TAG: row.pair, CONTENT: row.content},
        metadata={"mlflow.sourceRun": run_id},
    )
    if answer.prompt_tokens is not None and answer.output_tokens is not None:
        counts = (answer.prompt_tokens, answer.output_tokens)
        names = ("input_tokens", "output_tokens", "total_tokens")
        span.set_attribute(TOKENS, dict(zip(names, (*counts, sum(counts)), strict=True)))
    with safe_set_span_in_context(span):  # assessments of the active trace are stored together with it
        mlflow.update_current_trace(
            client_request_id=row.key,
            request_preview=" · ".join(filter(None, (row.name, row.inputs.get("question")))),
            response_preview=answer.text if answer.text is not None else f"no answer: {answer.error}",
        )
        for assessment in row.assessments:
            mlflow.log_assessment(span.trace_id, assessment)
    if answer.text is None:
        span.set_status(SpanStatus(SpanStatusCode.ERROR, answer.error or ""))
    span.end(outputs=answer.text, end_time_ns=now)
    return span.trace_id


def _delete(client: Any, experiment_id: str, trace_ids: set[str]) -> None:
    ids = sorted(trace_ids)
    for start in range(0, len(ids), 100):  # as many as the store takes at once
        client.delete_traces(experiment_id, trace_ids=ids[start : start + 100])


@contextmanager
def _failures() -> Iterator[list[str]]:
    """What MLflow's exporter could not write, as it says to its log: it raises nothing."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(" ".join(record.getMessage().split())[:300])
    logger = logging.getLogger("mlflow.tracing.export.mlflow_v3")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


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
