"""An MLflow client for a store's address."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any


def client_of(uri: str) -> Any:
    """An MlflowClient; of a sqlite store that is made if need be, by one process at a time."""
    from mlflow import MlflowClient

    if not uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=uri)
    file = Path(uri.removeprefix("sqlite:///")).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    # MLflow has a lock of its own, among the temporary files: each of our runs has its own of those.
    with open(file.parent / f".{file.name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=f"sqlite:///{file}")
        client.search_experiments(max_results=1)  # opens it
    return client
