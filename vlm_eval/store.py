"""A run's folder: rows are appended and synced as they come, so that what was done before a crash is there after it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterable, Optional

from vlm_eval import rows
from vlm_eval.secrets import mask

KINDS = {
    "items": rows.Item,
    "answers": rows.Answer,
    "latency": rows.Latency,
    "load": rows.UnderLoad,
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
    try:
        with open(beside, "w", encoding="utf-8", errors=HALF_LETTERS) as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())  # else a power cut can leave the new name with no content
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


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
    """What is in it; {} where there is no such file. One that is no JSON, as a broken disk leaves it, is set aside and
    said: what stood in it is made again."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        aside = path.with_name(f"{path.name}.broken")
        os.replace(path, aside)
        print(f"{path}: not JSON ({error}); set aside as {aside.name}", file=sys.stderr)
        return {}


def lock_alone(file: Any, within_s: float = 0.5) -> bool:
    """Lock an open file for this process; False where another has it for longer than one that only looks."""
    until = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)


def is_locked(file: Path) -> bool:
    """Whether a process holds it; where that cannot be told, it is."""
    try:
        with open(file, "rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


class RunFolder:
    """The files of one run (named in the README, `What a run leaves`)."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def append(self, kind: str, new: Iterable[Any]) -> None:
        """Add rows to `<kind>.jsonl` and sync them to the disk."""
        lines = [_line(row) for row in new]
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
                out.write(_line(row))
        os.replace(beside, file)

    def read(self, kind: str) -> list[Any]:
        """All whole rows of `<kind>.jsonl`. A last line torn by a crash is none; other lines that are none are said."""
        file = self.path / f"{kind}.jsonl"
        if not file.is_file():
            return []
        lines = [line for line in file.read_bytes().split(b"\n")[:-1] if line]
        found = [row for row in (_row(kind, line) for line in lines) if row is not None]
        if broken := len(lines) - len(found):
            print(f"{file}: {broken} of {len(lines)} lines are no rows; a resume makes them again", file=sys.stderr)
        return found

    def mend(self) -> list[str]:
        """Take out lines that are no rows, as a broken disk leaves them, so that these rows are made again; a sentence
        for each file that had some. The file as it was stays beside it."""
        said = []
        for kind in KINDS:
            file = self.path / f"{kind}.jsonl"
            _cut_torn_line(file)
            if file.is_file():
                lines = [line for line in file.read_bytes().split(b"\n") if line]
                whole = [line for line in lines if _row(kind, line) is not None]
                if broken := len(lines) - len(whole):
                    os.replace(file, aside := file.with_name(f"{file.name}.broken"))
                    file.write_bytes(b"".join(line + b"\n" for line in whole))
                    said.append(
                        f"{file.name}: {broken} of {len(lines)} lines are no rows and are made again; {aside.name}"
                    )
        return said

    def status(self) -> dict[str, Any]:
        return read_json(self.path / "status.json")

    def status_since(self, before: dict[str, Any]) -> dict[str, Any]:
        """The same, if it is another than `before`: {} where nobody has begun to work here since."""
        status = self.status()
        return {} if status == before else status

    def set_status(self, state: str, stage: Optional[str] = None, error: Optional[str] = None, **more: Any) -> None:
        """States: running, ok, failed, interrupted. `error` is one line with the reason; `tracking` (in `more`) says
        why the results are not in MLflow; `started` stays as it is while the run is running, in whatever process."""
        old = self.status()
        goes_on = state != "running" or old.get("state") == "running"
        new = {
            "state": state,
            "stage": stage,
            "error": error and mask(error),
            "started": goes_on and old.get("started") or now(),
            "ended": None if state == "running" else now(),
            "mlflow_run_id": old.get("mlflow_run_id"),
        }
        try:
            write_json(self.path / "status.json", {**new, **more})
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not (self.path / "status.json").is_file():
                raise
            _write_over(self.path / "status.json", {**new, **more})  # it takes no new room

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


def _line(row: Any) -> str:
    """A row as it is written: what an engine, a judge or a library says of a failure may quote a key."""
    found = rows.to_dict(row)
    if found.get("error"):
        found["error"] = mask(found["error"])
    return json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n"


def _write_over(path: Path, data: Any) -> None:
    with open(path, "r+b") as out:
        out.write(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
        out.truncate()
        os.fsync(out.fileno())


def _row(kind: str, line: bytes) -> Any:
    """None for a line that is no row, as a broken disk leaves them."""
    try:
        return rows.from_dict(KINDS[kind], json.loads(line.decode("utf-8", "replace")))
    except (ValueError, TypeError, AttributeError, LookupError):
        return None


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
