"""Chats with pictures made into prompts, apart from handing them to vLLM's engine and, of many, ahead of it.

vllm is imported when there is an engine, after the environment it reads at import is set.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import threading
from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence, TypeVar

from vlm_eval import images

# Threads that make prompts: most of what takes time there is the decoding of screenshots. Beside an engine that itself
# needs one of two cores, a second thread loses 7 %.
THREADS = max(1, min(4, len(os.sched_getaffinity(0)) // 4))
T = TypeVar("T")
Chat = Sequence[Mapping[str, Any]]  # messages, as vLLM's chat takes them


class Prompts:
    """Made by the renderer of an `LLM` or an `AsyncLLM`."""

    def __init__(self, llm: Any, **template: Any):
        """`template`: further arguments of the chat template."""
        from vllm.renderers import ChatParams
        from vllm.utils.mistral import is_mistral_tokenizer

        self._renderer, self._one_at_a_time = llm.renderer, threading.Lock()
        tokenize = is_mistral_tokenizer(llm.renderer.tokenizer)  # which has no template to fill in
        self._chat = ChatParams(
            chat_template=getattr(llm, "chat_template", None),  # from engine.extra
            chat_template_kwargs={"add_generation_prompt": True, "tokenize": tokenize, **template},
        )
        # The template writes them, and a server adds none either.
        self._tokens = dataclasses.replace(llm.renderer.default_chat_tok_params, add_special_tokens=False)

    def make(self, messages: Chat) -> Any:
        """Pictures of one uuid are prepared once. The cache of what is prepared is the renderer's own: vLLM's other one
        hands a picture over once, and takes it for handed over when the prompt was refused for its length."""
        with self._one_at_a_time:  # neither that cache nor a tokenizer is made for several threads
            _, [prompt] = self._renderer.render_chat([messages], self._chat, self._tokens, skip_mm_cache=True)
        return prompt

    async def make_soon(self, messages: Chat) -> Any:
        _, [prompt] = await self._renderer.render_chat_async([messages], self._chat, self._tokens)
        return prompt


def image_part(path: str, picture_id: str) -> dict[str, Any]:
    return {"type": "image_pil", "image_pil": picture(path), "uuid": picture_id}


def picture(path: str) -> Any:
    """Decoded by whoever comes first; the others wait."""
    with _decoding[path]:
        return _picture(path)


_decoding: dict[str, threading.Lock] = defaultdict(threading.Lock)


@functools.lru_cache(maxsize=16)  # 10 MB each, of 1080 x 2400
def _picture(path: str) -> Any:
    return images.load(Path(path))


def forget_pictures() -> None:
    _picture.cache_clear()


@functools.cache
def size_of(path: str) -> tuple[int, int]:
    return picture(path).size


def ahead(
    make: Callable[[T], Any], things: Iterable[T], depth: int, threads: int = THREADS
) -> Iterator[tuple[T, Future]]:
    """Each, in order, with what `make` made of it or raised: threads are at most `depth` ahead of who takes them."""
    left, under_way = iter(things), deque[tuple[T, Future]]()
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            for thing in itertools.islice(left, depth - len(under_way)):
                under_way.append((thing, pool.submit(make, thing)))
            if not under_way:
                return
            wait([under_way[0][1]])
            yield under_way.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
