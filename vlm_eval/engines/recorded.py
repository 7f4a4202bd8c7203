"""Answers that were given before, and the judgements beside them: in a table, in a run folder, or in an MLflow run."""

from __future__ import annotations

import atexit
import functools
import math
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from vlm_eval.errors import BadInput
from vlm_eval.rows import Answer, Latency
from vlm_eval.store import RunFolder, read_json, sha256_of
from vlm_eval.tables import TABLES, read_table

FIELDS = (
    *("model", "item_id", "image", "question", "device", "repeat", "text", "error", "finish_reason"),
    *("latency_s", "ttft_s", "prompt_tokens", "output_tokens"),
)
JUDGEMENT = ("candidate_score", "reference_score", "rationale", "judge", "order")
KEPT = ("answers.jsonl", "latency.jsonl", "items.jsonl", "judgements.jsonl", "provenance.json", "hydra")  # of MLflow's
NO_TEXT = ("nan", "none", "null", "<na>")  # what programs write where there was no text


@dataclass(frozen=True)
class Row:
    """One recorded answer, before it is known which item it belongs to; without an id `answer.item_id` is ""."""

    where: str  # for messages: "row 7"
    image: str
    question: str
    device: str
    answer: Answer
    latency: Optional[Latency] = None
    judgement: Mapping[str, str] = field(default_factory=dict)  # cells of a table that judge this answer, as they stand


@dataclass(frozen=True)
class Recorded:
    """Everything one candidate answered, and what is known of how."""

    rows: Sequence[Row]
    sha256: str  # of the files read
    engine: Mapping[str, Any]  # engine facts of the recorded run; {} for a table
    image_sha256: Mapping[str, str]  # item_id -> the picture that the recorded run saw; {} for a table


def is_mlflow(path: str) -> bool:
    return bool(re.fullmatch(r"(runs:/)?[0-9a-f]{32}", path))


def is_sweep(path: str) -> bool:
    return (Path(path) / "sweep.json").is_file()


def run_folder(
    path: str, candidate: Optional[str], tracking_uri: Optional[str], option: str = "engine.path"
) -> Optional[RunFolder]:
    """The folder of the recorded run, fetched from MLflow where `path` is a run id; None where it is a table.

    A BadInput names the option that gave the path."""
    group = option.partition(".")[0]
    if is_mlflow(path):
        return RunFolder(_fetched(path.removeprefix("runs:/"), tracking_uri, option))
    if is_sweep(path) and candidate:
        folder = Path(path) / candidate
        if not folder.is_dir():
            raise BadInput(f"{group}.candidate={candidate}: no such run in {path}; it has {', '.join(runs_of(path))}")
        return RunFolder(folder)
    if is_sweep(path):
        or_all = ", or engine.candidate=all with -m" if group == "engine" else ""
        raise BadInput(f"{option}={path}: a sweep; give {group}.candidate=RUN{or_all}")
    if not Path(path).is_dir():
        return None
    if not (Path(path) / "answers.jsonl").is_file():
        raise BadInput(f"{option}={path}: no answers.jsonl there; it is no run folder")
    return RunFolder(path)


def runs_of(sweep: str, task: Optional[str] = None) -> list[str]:
    """The runs of a sweep folder that have answers, of one task or of all."""
    folders = [point["folder"] for point in read_json(Path(sweep) / "sweep.json")["points"]]
    there = [name for name in folders if (Path(sweep) / name / "answers.jsonl").is_file()]
    return [n for n in there if task in (None, recorded_config(RunFolder(Path(sweep) / n)).task.name)]


@functools.cache
def _fetched(run_id: str, uri: Optional[str], option: str) -> Path:
    from mlflow.exceptions import MlflowException

    from vlm_eval.tracking.client import client_of

    if not uri:
        needed = f"{option.partition('.')[0]}.tracking_uri"
        raise BadInput(f"{option}={run_id}: a MLflow run id needs {needed}, or a tracking that has a uri")
    folder = Path(tempfile.mkdtemp(prefix="vlm-eval-replay-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        client = client_of(uri)
        there = {artifact.path for artifact in client.list_artifacts(run_id)}
        if "answers.jsonl" not in there:
            raise BadInput(
                f"{option}={run_id}: that MLflow run holds no answers.jsonl; give the id of a run, not of a sweep"
            )
        for name in there & set(KEPT):
            client.download_artifacts(run_id, name, str(folder))
    except MlflowException as error:
        raise BadInput(f"{option}={run_id}: not to be had from {uri}: {' '.join(str(error).split())[:300]}") from error
    (folder / "hydra").rename(folder / ".hydra")
    return folder


def recorded_config(folder: RunFolder, cwd: Optional[Path] = None) -> Any:
    """config.yaml of a run, as it was composed; `cwd` is where the person stood, for the path of what it replayed."""
    from omegaconf import OmegaConf

    file = folder.path / ".hydra" / "config.yaml"
    if not file.is_file():
        raise BadInput(f"{folder.path}: no .hydra/config.yaml there; it is no run folder")
    cfg = OmegaConf.load(file)
    replayed = OmegaConf.select(cfg, "engine.path")
    if cwd and replayed and (cwd / replayed).exists():
        cfg.engine.path = str(cwd / replayed)
    return cfg


def read(path: str, columns: Mapping[str, str], candidate: Optional[str], tracking_uri: Optional[str]) -> Recorded:
    """One candidate's rows, wherever they are recorded."""
    folder = run_folder(path, candidate, tracking_uri)
    return read_run(folder) if folder else read_answers(path, columns, candidate)


def read_run(folder: RunFolder) -> Recorded:
    """The rows of a run folder."""
    timed = {(x.item_id, x.repeat): x for x in folder.read("latency")}
    rows = [
        Row(f"row {n}", a.cluster, "", "", a, timed.get((a.item_id, a.repeat)))
        for n, a in enumerate(folder.read("answers"), start=1)
    ]
    if not rows:
        raise BadInput(f"{folder.path}: its answers.jsonl has no rows")
    return Recorded(
        rows,
        sha256_of(folder.path / "answers.jsonl", folder.path / "latency.jsonl"),
        folder.provenance().get("engine", {}),
        {item.item_id: item.image_sha256 for item in folder.read("items") if item.image_sha256},
    )


def read_answers(path: str, columns: Mapping[str, str], candidate: Optional[str]) -> Recorded:
    """One candidate's rows of a table; BadInput for columns that are not there and cells that cannot be meant."""
    table = _table(path, tuple(columns.items()))
    models = models_of(path, columns)
    if candidate is None and len(models) > 1:
        raise BadInput(
            f"{path}: holds {len(models)} candidates; give engine.candidate=NAME, or engine.candidate=all with -m: "
            f"{', '.join(models)}"
        )
    if candidate is not None and candidate not in models:
        there = ", ".join(models) or f"no column {columns.get('model')!r}"
        raise BadInput(f"engine.candidate={candidate}: not in {path}; it has {there}")
    kept = [(n, cell) for n, cell in enumerate(table, start=2) if candidate is None or cell.get("model") == candidate]
    return Recorded([_row(path, n, cell) for n, cell in kept], sha256_of(Path(path)), {}, {})


def models_of(path: str, columns: Mapping[str, str]) -> list[str]:
    """The candidates of a table, in order; [] where it has no such column."""
    return list(dict.fromkeys(cell["model"] for cell in _table(path, tuple(columns.items())) if cell.get("model")))


@functools.lru_cache(maxsize=1)  # a sweep over its candidates reads it once
def _table(path: str, columns: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    """All rows under our names."""
    # A column that is mapped by hand is not also what its own name says: those come last here.
    ours_of = {theirs: ours for ours, theirs in sorted(columns, key=lambda pair: pair[0] != pair[1])}
    for ours in ours_of.values():
        if ours not in (*FIELDS, *JUDGEMENT):
            raise BadInput(f"engine.columns.{ours}: no such field; there are {', '.join((*FIELDS, *JUDGEMENT))}")
    if Path(path).suffix.lower() not in TABLES:
        raise BadInput(
            f"engine.path={path}: neither a table ({', '.join(TABLES)}) nor a run folder, sweep folder or MLflow run id"
        )
    rows = read_table(Path(path), only=list(ours_of))
    for ours, theirs in columns:
        # A mapping that names a column promises it; a name that is only ours may be absent, but for the answer itself.
        if theirs not in rows[0] and (ours != theirs or ours == "text"):
            raise BadInput(f"{path}: no column {theirs!r} (for {ours}); engine.columns.{ours}=NAME names it")
    named = [name for name in ("item_id", "image") if dict(columns).get(name) in rows[0]]
    if not named:
        raise BadInput(f"{path}: no column says which item is answered: map engine.columns.item_id or .image")
    return [{ours_of[k]: v if ours_of[k] == "text" else v.strip() for k, v in row.items()} for row in rows]


def _row(path: str, number: int, cell: Mapping[str, str]) -> Row:
    where = f"row {number}"  # as a spreadsheet counts
    item_id, text, error = cell.get("item_id", ""), cell["text"], cell.get("error") or None
    repeat = _whole(cell.get("repeat") or "0", f"{path}: {where}: repeat")
    if not text.strip():
        text, error = None, error or "no answer in the table: the cell is empty"
    elif text.strip().lower() in NO_TEXT:
        text, error = None, error or f"no answer in the table: the cell says {text.strip()}"
    elif error:
        text = None
    answer = Answer(
        item_id,
        repeat,
        "",
        text,
        finish_reason=cell.get("finish_reason") or None,
        prompt_tokens=_optional(_whole, cell, "prompt_tokens", f"{path}: {where}"),
        output_tokens=_optional(_whole, cell, "output_tokens", f"{path}: {where}"),
        error=error,
    )
    seconds = _optional(_seconds, cell, "latency_s", f"{path}: {where}")
    latency = None
    if seconds is not None and text is not None:
        first = _optional(_seconds, cell, "ttft_s", f"{path}: {where}")
        latency = Latency(item_id, seconds, first, answer.output_tokens, len(text), repeat=repeat)
    judgement = {name: cell[name] for name in JUDGEMENT if name in cell}
    return Row(
        where, cell.get("image", ""), cell.get("question", ""), cell.get("device", ""), answer, latency, judgement
    )


def _optional(parse: Any, cell: Mapping[str, str], name: str, where: str) -> Any:
    text = cell.get(name, "")
    return None if text.lower() in ("", *NO_TEXT) else parse(text, f"{where}: {name}")


def _whole(text: str, where: str) -> int:
    """A whole number, also as spreadsheets write one: 3.0."""
    value = _number(text, where)
    if value != int(value) or value < 0:
        raise BadInput(f"{where} is {text!r}, not a whole number from 0")
    return int(value)


def _seconds(text: str, where: str) -> float:
    value = _number(text.replace(",", "."), where)
    if value < 0:
        raise BadInput(f"{where} is {text!r}; seconds are not negative")
    return value


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{where} is {text!r}, not a number")
    return value
