"""A checkpoint's processor, loaded with the tokenizer that it is given, and without others.

vLLM hands its tokenizer to the `from_pretrained` of transformers, which copies its arguments anew for each part that it
loads, and loads a second tokenizer from the disk, for nothing: the processor gets the tokenizer itself. With 150,000
tokens a copy takes 0.5 s and more, a tokenizer 1.3 s, and both hold the interpreter: 5 s of each processor, of which a
start loads two to four.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Callable

ASKED = "VLM_EVAL_NO_TOKENIZER_COPIES"


def load_without_copies() -> None:
    """In this process, from now on, and in those that vLLM starts from it."""
    from transformers import AutoProcessor, ProcessorMixin

    os.environ[ASKED] = "1"
    for of, name, wrapped in (
        (ProcessorMixin, "from_pretrained", _without_copies),
        (AutoProcessor, "from_pretrained", _without_copies),
        (ProcessorMixin, "_load_tokenizer_from_pretrained", _the_given_one),  # private: a release may lack it
    ):
        method = getattr(of, name, None)
        if method is not None and not hasattr(method, "copies_nothing"):
            load = wrapped(method.__func__)
            load.copies_nothing = True
            setattr(of, name, classmethod(load))


def register() -> None:
    """A vLLM plugin, which vLLM calls in each of its processes: in those of an engine that a run has started."""
    if os.environ.get(ASKED) == "1":
        load_without_copies()


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

    return load


def _the_given_one(load_tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load_tokenizer)
    def load(cls: Any, part: str, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("tokenizer") if part == "tokenizer" else None  # and not "decoder_tokenizer"
        return load_tokenizer(cls, part, *args, **kwargs) if given is None else given

    return load
