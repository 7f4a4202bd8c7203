"""A run's folder: rows are appended and synced as they come, so that what was done before a crash is there after it."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterable, Optional

from vlm_eval import rows

KINDS = {
    "items": rows.Item,
    "answers": rows.Answer,
    "latency": rows.Latency,
    "system": rows.Sample,
    "scores": rows.Score,
    "judgements": rows.Judgement,
}
# Half an emoji, as a server's JSON may hold (a lone surrogate), cannot be UTF-8; this writes it as JSON's own escape.
HALF_LETTERS = "backslashreplace"


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_json(path: Path, data: Any) -> None:
    """Write whole or not at all: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    with open(beside, "w", encoding="utf-8", errors=HALF_LETTERS) as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())  # else a power cut can leave the new name with no content
    os.replace(beside, path)


def sha256_of(*files: Path) -> str:
    """Of the contents, one after another; of those that are there."""
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with open(file, "rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


class RunFolder:
    """The files of one run (named in the README, `What a run leaves`)."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def append(self, kind: str, new: Iterable[Any]) -> None:
        """Add rows to `<kind>.jsonl` and sync them to the disk."""
        lines = [json.dumps(rows.to_dict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in new]
        if not lines:
            return
        file = self.path / f"{kind}.jsonl"
        _cut_torn_line(file)
        with open(file, "a", encoding="utf-8", errors=HALF_LETTERS) as out:
            out.writelines(lines)
            out.flush()
            os.fsync(out.fileno())

    def replace(self, kind: str, new: Iterable[Any]) -> None:
        """Write `<kind>.jsonl` anew (for what is cheap to compute again, such as scores)."""
        file = self.path / f"{kind}.jsonl"
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        with open(beside, "w", encoding="utf-8", errors=HALF_LETTERS) as out:
            for row in new:
                out.write(json.dumps(rows.to_dict(row), ensure_ascii=False, allow_nan=False) + "\n")
        os.replace(beside, file)

    def read(self, kind: str) -> list[Any]:
        """All whole rows of `<kind>.jsonl`; a last line torn by a crash is not one."""
        file = self.path / f"{kind}.jsonl"
        if not file.is_file():
            return []
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        return [rows.from_dict(KINDS[kind], json.loads(line)) for line in lines[:-1] if line]

    def status(self) -> dict[str, Any]:
        return read_json(self.path / "status.json")

    def set_status(self, state: str, stage: Optional[str] = None, error: Optional[str] = None, **more: Any) -> None:
        """States: running, ok, failed, interrupted, skipped. `error` is one line with the reason;
        `tracking` (in `more`) says why the results are not in MLflow."""
        old = self.status()
        new = {
            "state": state,
            "stage": stage,
            "error": error,
            "started": now() if state == "running" else old.get("started") or now(),
            "ended": None if state == "running" else now(),
            "mlflow_run_id": old.get("mlflow_run_id"),
        }
        write_json(self.path / "status.json", {**new, **more})

    def set_mlflow_run(self, run_id: str) -> None:
        """Remember the MLflow run as soon as there is one: a second attempt goes on in it."""
        write_json(self.path / "status.json", {**self.status(), "mlflow_run_id": run_id})

    def provenance(self, **facts: Any) -> dict[str, Any]:
        """Add facts to provenance.json and return all of it."""
        known = {**read_json(self.path / "provenance.json"), **facts}
        if facts:
            write_json(self.path / "provenance.json", known)
        return known

    def data_root(self, default: str) -> Path:
        """The folder that the run's images are below, else the one its config names."""
        return Path(self.provenance().get("data_root", default))

    def summary(self) -> dict[str, float]:
        return read_json(self.path / "summary.json")


def _cut_torn_line(file: Path) -> None:
    if not file.is_file() or file.stat().st_size == 0:
        return
    with open(file, "rb+") as handle:
        handle.seek(-1, os.SEEK_END)
        if handle.read(1) == b"\n":
            return
        handle.seek(0)
        whole = handle.read().rfind(b"\n") + 1
        handle.truncate(whole)
