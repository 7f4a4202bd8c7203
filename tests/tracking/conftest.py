"""What the tests of tracking share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A sqlite store with its tables made and nothing in it."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "m.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
