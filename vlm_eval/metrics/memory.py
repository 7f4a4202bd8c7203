"""GPU memory at given lengths of the input: experiment=memory, engine.memory_at=[1,1536,3072,6144]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from vlm_eval.metrics.base import Answered, Key, PlainMetric
from vlm_eval.rows import Score

PARTS = ("weights_gib", "other_gib", "kv_gib", "activations_gib", "total_gib")


@dataclass
class MemoryConfig:
    _target_: str = "???"


class Memory(PlainMetric):
    """Of the whole run; no answer has a share in it."""

    def __init__(self, config: MemoryConfig):
        pass

    def score(self, data: Answered) -> dict[Key, dict[str, Any] | str]:
        table = data.engine.get("memory")
        if not table:
            return {(a.item_id, a.repeat): "the engine did not measure it (engine.memory_at)" for a in data.answers}
        why = next((row["error"] for row in table if "error" in row), None)
        return {(a.item_id, a.repeat): why or {} for a in data.answers}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        return {
            f"memory/{part}_{row['input_tokens']}": row[part]
            for row in data.engine["memory"]
            for part in PARTS
            if part in row
        }
