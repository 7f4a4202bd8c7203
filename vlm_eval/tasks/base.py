"""What every task has in common: a data set, a prompt, sampling; items in, chat messages out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from vlm_eval import paths
from vlm_eval.errors import BadInput
from vlm_eval.rows import Item
from vlm_eval.tasks.dataset import DataConfig, ImageConfig, read_items


@dataclass
class SamplingConfig:
    temperature: float = 0.1
    top_p: float = 1.0
    max_tokens: int = 256  # longest answer, tokens


@dataclass
class TaskConfig:
    _target_: str = "???"
    name: str = "???"
    system: str = "???"  # prompt file
    repeats: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    data: DataConfig = field(default_factory=DataConfig)
    on_bad_item: str = "fail"


class Task:
    """Reads its items and turns each into chat messages. A subclass says what the user message holds."""

    needs_question = False

    def __init__(self, config: TaskConfig):
        if config.on_bad_item not in ("fail", "record"):
            raise BadInput(f"task.on_bad_item={config.on_bad_item}: it is fail or record")
        for key, value, low, high in (
            ("repeats", config.repeats, 1, None),
            ("sampling.temperature", config.sampling.temperature, 0, 2),
            ("sampling.top_p", config.sampling.top_p, 1e-6, 1),
            ("sampling.max_tokens", config.sampling.max_tokens, 1, None),
            ("image.min_pixels", config.image.min_pixels, 1, None),
            ("image.max_pixels", config.image.max_pixels, 1, None),
        ):
            if value is not None and (value < low or high is not None and value > high):
                raise BadInput(f"task.{key}={value}: at least {low}" + (f", at most {high}" if high else ""))
        self.config = config
        file = paths.prompt(config.system)
        if not file.is_file():
            raise BadInput(f"task.system={config.system}: no such prompt file, here or in conf/task/prompts")
        self.system = file.read_text(encoding="utf-8").strip()

    def items(self) -> list[Item]:
        """All items, images checked; BadInput at the first bad one, or rows with `error` under on_bad_item=record."""
        return read_items(self.config.data, self.config.image, self.needs_question, self.config.on_bad_item)

    def image_path(self, item: Item) -> Path:
        return Path(self.config.data.root) / item.image

    def messages(self, item: Item) -> list[dict[str, Any]]:
        """OpenAI-style messages; the image part is {"type": "image", "path": ...} for the engine to encode."""
        image = {"type": "image", "path": str(self.image_path(item))}
        return [{"role": "system", "content": self.system}, {"role": "user", "content": [image, *self.user_text(item)]}]

    def user_text(self, item: Item) -> list[dict[str, Any]]:
        raise NotImplementedError

    def prompt_text(self, item: Item) -> str:
        """All words of the prompt, for counting tokens before an engine runs."""
        return "\n".join([self.system, *(part["text"] for part in self.user_text(item))])

    def facts(self) -> dict[str, Optional[str]]:
        """What goes into provenance about the prompt."""
        return {"system_prompt_sha256": hashlib.sha256(self.system.encode()).hexdigest()}
