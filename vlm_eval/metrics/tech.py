"""Technical statistics: time, size, lengths, failures."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Sequence

from vlm_eval.metrics.base import Answered, Key, PlainMetric, column
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_mean, named_share


@dataclass
class TechConfig:
    _target_: str = "???"


class Tech(PlainMetric):
    """Latency comes only from the latency pass (one request at a time); throughput from the batch."""

    def __init__(self, config: TechConfig):
        pass

    def score(self, data: Answered) -> dict[Key, dict[str, Any] | str]:
        return {
            (a.item_id, a.repeat): {"length_chars": len(a.text)} if a.text is not None else "no answer"
            for a in data.answers
        }

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        answered = [a for a in data.answers if a.text is not None]
        summary: dict[str, float] = {}
        summary |= named_share("tech/failed_rate", [(a.cluster, float(a.text is None)) for a in data.answers])
        if answered:
            # A replayed table may not tell why an answer ended.
            truncated = [(a.cluster, float(a.finish_reason == "length")) for a in answered if a.finish_reason]
            summary |= named_share("tech/truncated_rate", truncated)
            summary |= named_mean("tech/length_chars_mean", column(scores, data, "length_chars"))
            visual = [(a.cluster, a.visual_tokens) for a in answered if a.visual_tokens is not None]
            summary |= named_mean("tech/visual_tokens_mean", visual)
        summary |= self._latency(data) | self._cost(data)
        wall = data.engine.get("generation_wall_s")
        if wall:
            tokens = data.engine.get("generation_output_tokens", 0)
            summary |= {"tech/generation_wall_s": wall, "tech/output_tokens_per_s": tokens / wall}
            # More than 1: the run was interrupted, and a batch has a beginning and an end where less is under way.
            summary["tech/generation_batches"] = data.engine.get("generation_batches", 1)
        if shared := [a for a in answered if a.cached_tokens is not None and a.prompt_tokens]:
            prompts = sum(a.prompt_tokens for a in shared)
            summary["tech/cached_prompt_rate"] = sum(a.cached_tokens for a in shared) / prompts
        for stage, name in (("batch", "energy_j_per_answer"), ("alone", "energy_j_per_answer_alone")):
            if answers := data.engine.get(f"{stage}_energy_answers"):
                summary[f"tech/{name}"] = data.engine[f"{stage}_energy_j"] / answers
        for fact in ("engine_start_s", "weights_gib", "kv_bytes_per_token", "gpu_peak_gib", "host_peak_gib"):
            if data.engine.get(fact) is not None:
                summary[f"tech/{fact}"] = data.engine[fact]
        return summary

    def _cost(self, data: Answered) -> dict[str, float]:
        """USD paid for the answers of a model behind an API; nothing where one's price is unknown."""
        paid = [x.cost_usd for x in (*data.answers, *data.latencies) if x.cost_usd is not None]
        whole = all(x.cost_usd is not None for x in data.answers if x.text is not None)
        return {"tech/cost_usd": sum(paid)} if paid and whole else {}

    def _latency(self, data: Answered) -> dict[str, float]:
        timed = [x for x in data.latencies if x.latency_s is not None and x.item_id in data.items]
        if not timed:
            return {}
        cluster = {x.item_id: data.items[x.item_id].cluster for x in timed}
        summary = named_mean("tech/latency_s_mean", [(cluster[x.item_id], x.latency_s) for x in timed])
        ordered = sorted(x.latency_s for x in timed)
        summary["tech/latency_s_p50"] = statistics.median(ordered)
        if len(ordered) >= 20:  # a 95th percentile needs at least one value above it
            summary["tech/latency_s_p95"] = statistics.quantiles(ordered, n=20, method="inclusive")[-1]
        summary |= named_mean("tech/ttft_s_mean", [(cluster[x.item_id], x.ttft_s) for x in timed if x.ttft_s])
        summary |= named_mean("tech/prepare_s_mean", [(cluster[x.item_id], x.prepare_s) for x in timed if x.prepare_s])
        between = [
            (cluster[x.item_id], (x.latency_s - x.ttft_s) / (x.output_tokens - 1))
            for x in timed
            if x.ttft_s and (x.output_tokens or 0) > 1
        ]
        summary |= named_mean("tech/itl_s_mean", between)
        rate = [(cluster[x.item_id], x.chars / x.latency_s) for x in timed if x.chars is not None and x.latency_s]
        return summary | named_mean("tech/chars_per_s_mean", rate)
