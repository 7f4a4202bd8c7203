"""Replies of judges on the disk: what was paid for once is not asked again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any, Optional


class ReplyCache:
    """A sqlite file, shared by threads and processes. Keys are content: another word in the prompt is another key."""

    def __init__(self, path: Path):
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("create table if not exists replies (key text primary key, reply text not null)")

    @staticmethod
    def key(*parts: Any) -> str:
        """sha256 of all that a reply follows from; pictures are in the messages, as the bytes that are sent."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def get(self, key: str) -> Optional[dict[str, Any]]:
        with self._lock:
            found = self._db.execute("select reply from replies where key = ?", (key,)).fetchone()
        return json.loads(found[0]) if found else None

    def put(self, key: str, reply: dict[str, Any]) -> None:
        with self._lock:
            self._db.execute("insert or replace into replies values (?, ?)", (key, json.dumps(reply)))
