"""Requests that vLLM will not take, such as a prompt longer than its context."""

from __future__ import annotations

import functools


@functools.cache
def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for one: a ValueError up to 0.24, a family of its own in 0.32."""
    from vllm import exceptions

    return ValueError, getattr(exceptions, "VLLMClientError", ValueError)


def said_in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
