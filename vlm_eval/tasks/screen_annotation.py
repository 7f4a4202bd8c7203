"""Screen annotation: a screenshot without words becomes the user's request to support."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlm_eval.rows import Item
from vlm_eval.tasks.base import Task, TaskConfig


@dataclass
class ScreenAnnotationConfig(TaskConfig):
    repeats: int = 5


class ScreenAnnotation(Task):
    """One system instruction and a screenshot, no user text."""

    def user_text(self, item: Item) -> list[dict[str, Any]]:
        return []
