"""A checkpoint's processor, loaded without copies of the tokenizer that it is given.

vLLM hands its tokenizer to the `from_pretrained` of transformers, which copies its arguments anew for each part that it
loads, for nothing: the processor gets the tokenizer itself. With 150,000 tokens a copy takes 0.5 s and more, and holds
the interpreter: 4 s of each processor, and a start loads two. Child processes that vLLM spawns copy as before.
"""

from __future__ import annotations

import functools
from typing import Any, Callable


def load_without_copies() -> None:
    """In this process, from now on."""
    from transformers import AutoProcessor, ProcessorMixin

    for of in (ProcessorMixin, AutoProcessor):
        if not hasattr(of.from_pretrained, "copies_nothing"):
            of.from_pretrained = classmethod(_without_copies(of.from_pretrained.__func__))


def _without_copies(from_pretrained: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(from_pretrained)
    def load(cls: Any, *args: Any, **kwargs: Any) -> Any:
        tokenizer = kwargs.get("tokenizer")
        # The last: AutoProcessor hands it on.
        if not hasattr(tokenizer, "__dict__") or "__deepcopy__" in vars(tokenizer):
            return from_pretrained(cls, *args, **kwargs)
        tokenizer.__deepcopy__ = lambda memo: tokenizer  # where copy.deepcopy looks first
        try:
            return from_pretrained(cls, *args, **kwargs)
        finally:
            vars(tokenizer).pop("__deepcopy__", None)

    load.copies_nothing = True
    return load
