"""Rows of tokens as the checkpoint's chat template writes them, with Qwen2-VL's three positions a token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

PROMPTS = Path(__file__).parents[2] / "conf" / "task" / "prompts"
END = "<|im_end|>"

TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part %}{{- part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@cache
def system_prompts() -> dict[str, str]:
    """What the tasks tell a model first; the demo model is trained on these very words."""
    return {task: (PROMPTS / f"{task}.ru.txt").read_text("utf-8").strip() for task in ("screen_annotation", "vqa")}


@dataclass(frozen=True)
class Row:
    """L tokens, padded. `places`: which feature of the picture stands here, -1 for text."""

    tokens: list[int]
    places: np.ndarray  # (L,)
    positions: np.ndarray  # (3, L): time, row, column
    answered: list[bool]  # the token belongs to an answer


@dataclass(frozen=True)
class Chat:
    tokenizer: Tokenizer

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def row(self, system: str, turns: list[tuple[str, str]], grid: tuple[int, int], length: int) -> Row:
        """A picture of `grid` (rows, columns) features, then questions and answers, as many as fit into `length`."""
        start = f"<|im_start|>system\n{system}{END}\n" if system else ""
        head = self.ids(f"{start}<|im_start|>user\n<|vision_start|>")
        n = grid[0] * grid[1]
        tokens, answered = [*head, *[self.tokenizer.token_to_id("<|image_pad|>")] * n], [False] * (len(head) + n)
        opening = "<|vision_end|>"
        for question, answer in turns:
            asked = self.ids(f"{opening}{question}{END}\n<|im_start|>assistant\n")
            said = self.ids(f"{answer}{END}")
            if len(tokens) + len(asked) + len(said) > length:
                break
            tokens += asked + said
            answered += [False] * len(asked) + [True] * len(said)
            opening = "\n<|im_start|>user\n"
        pad = length - len(tokens)
        return Row(
            tokens + [self.tokenizer.token_to_id("<|endoftext|>")] * pad,
            *place(len(head), grid, length),
            answered + [False] * pad,
        )


def place(before: int, grid: tuple[int, int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """`places` and `positions` of a row whose picture comes after so many tokens of text."""
    n = grid[0] * grid[1]
    there = np.arange(n)
    places = np.full(length, -1, np.int64)
    places[before : before + n] = there
    positions = np.zeros((3, length), np.int64)
    positions[:, :before] = np.arange(before)
    positions[:, before : before + n] = before + np.stack((there * 0, there // grid[1], there % grid[1]))
    positions[:, before + n :] = before + max(grid) + np.arange(length - before - n)
    return places, positions
