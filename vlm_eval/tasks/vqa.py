"""Visual question answering: a question about a screenshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlm_eval.rows import Item
from vlm_eval.tasks.base import Task, TaskConfig


@dataclass
class VqaConfig(TaskConfig):
    pass


class Vqa(Task):
    """System instruction, screenshot, question."""

    needs_question = True

    def user_text(self, item: Item) -> list[dict[str, Any]]:
        return [{"type": "text", "text": item.question or ""}]
