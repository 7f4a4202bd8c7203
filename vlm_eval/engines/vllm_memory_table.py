"""GPU memory at given lengths of the input, as tables of published models have it.

vLLM takes its KV cache ahead, so the peak of the process is the same for every length and every quantisation. What a
length costs is put together from the engine's own figures: weights, buffers and graphs, that many tokens of KV cache,
and the activations of one prefill of that length.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

GIB = 2**30
NO_GPU = "no GPU: torch counts no activations on a CPU"


def measure(llm: Any, lengths: Sequence[int], facts: Mapping[str, Any], kv_cache_gib: float) -> list[dict[str, Any]]:
    """A row a length, GiB; `total` is the sum of weights, other, kv and activations. On a CPU only weights and kv."""
    rows = []
    for length in lengths:
        kv = facts["kv_bytes_per_token"] * length / GIB
        row = {"input_tokens": length, "weights_gib": facts["weights_gib"], "kv_gib": kv}
        if measured := _activations(llm, length, facts["weights_gib"] + kv_cache_gib):
            row |= measured
            row["total_gib"] = row["weights_gib"] + row["other_gib"] + row["kv_gib"] + row["activations_gib"]
        else:
            row["error"] = NO_GPU
        rows.append(row)
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def _activations(llm: Any, length: int, weights_and_cache_gib: float) -> Optional[dict[str, float]]:
    """What torch has allocated at most while one prompt of that length is read, over what stays allocated."""
    import torch

    if not torch.cuda.is_available():
        return None
    _prefill(llm, length)  # first kernels, and their workspaces, are no activations
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _prefill(llm, length)
    torch.cuda.synchronize()
    return {
        "other_gib": max(0.0, before / GIB - weights_and_cache_gib),
        "activations_gib": (torch.cuda.max_memory_allocated() - before) / GIB,
    }


def _prefill(llm: Any, length: int) -> None:
    from vllm import SamplingParams

    # Tokens of the middle of the vocabulary, that no chat template gives a meaning.
    prompt = {"prompt_token_ids": [1000 + n % 1000 for n in range(length)]}
    whole = SamplingParams(max_tokens=1, ignore_eos=True, skip_reading_prefix_cache=True)
    llm.generate([prompt], whole, use_tqdm=False)
