"""An MLflow client for a store's address."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def client_of(uri: str) -> Any:
    """An MlflowClient; of a sqlite store whose folder is made if need be."""
    # MLflow's own 7 retries keep a run waiting for minutes when a server is down; the files have it all anyway.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # making a new store is not news
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///")).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{file}"
    return MlflowClient(tracking_uri=uri)
