"""Chats with pictures made into prompts, apart from handing them to vLLM's engine and, of many, ahead of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence, TypeVar

T = TypeVar("T")
Chat = Sequence[Mapping[str, Any]]  # messages, as vLLM's chat takes them


class Prompts:
    """Made by the renderer of an `LLM` or an `AsyncLLM`."""

    def __init__(self, llm: Any, **template: Any):
        """`template`: further arguments of the chat template."""
        from vllm.renderers import ChatParams
        from vllm.utils.mistral import is_mistral_tokenizer

        self._renderer = llm.renderer
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
        _, [prompt] = self._renderer.render_chat([messages], self._chat, self._tokens, skip_mm_cache=True)
        return prompt

    async def make_soon(self, messages: Chat) -> Any:
        _, [prompt] = await self._renderer.render_chat_async([messages], self._chat, self._tokens)
        return prompt


def ahead(make: Callable[[T], Any], things: Iterable[T], depth: int) -> Iterator[tuple[T, Future]]:
    """Each, in order, with what `make` made of it or raised: a thread is at most `depth` ahead of who takes them."""
    left, under_way = iter(things), deque[tuple[T, Future]]()
    thread = ThreadPoolExecutor(1)
    try:
        while True:
            for thing in itertools.islice(left, depth - len(under_way)):
                under_way.append((thing, thread.submit(make, thing)))
            if not under_way:
                return
            wait([under_way[0][1]])
            yield under_way.popleft()
    finally:
        thread.shutdown(cancel_futures=True)
