"""An MLflow client for a store's address."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def client_of(uri: str) -> Any:
    """An MlflowClient; of a sqlite store whose folder is made if need be."""
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///")).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{file}"
    return MlflowClient(tracking_uri=uri)
