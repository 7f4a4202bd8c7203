"""Ask a language model through LiteLLM: one way in, one reply out, whatever went wrong on the way.

LiteLLM takes seconds to import, so it is imported at the first use, never with this module.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import queue
import random
import re
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, TypeVar

from vlm_eval import images, secrets
from vlm_eval.errors import BadInput
from vlm_eval.judges.budget import Budget
from vlm_eval.judges.cache import ReplyCache

Job = TypeVar("Job")
Result = TypeVar("Result")

FIRST_WAIT_S = 1.0  # before the first retry; doubles with each
LONGEST_WAIT_S = 60.0  # also the most that a server's Retry-After is obeyed
# A screenshot at most. gpt-4o-mini's is the dearest known: 2833 and 5667 a tile, 8 tiles at most (OpenAI's pricing of
# images); a name that LiteLLM does not know may stand for it. Else a Qwen-VL's largest, 12,845,056 pixels at 28 x 28.
DEAREST_PICTURE_TOKENS, PICTURE_TOKENS = 48_169, 16_384
MENDED_CHARS = 4000  # of a wrong reply that are shown to the model again
TOKENS = (("prompt", "prompt"), ("output", "completion"))  # our name and the protocol's
CACHED = ("text", "cut_off", "tokens", "prompt_tokens", "output_tokens")  # of a Reply
MEND = (
    "Не принято / not accepted: {}. Только объект JSON по схеме, без пояснений. / Only the JSON object, nothing else."
)
NO_SCHEMA = re.compile(r"response.?format|json.?schema|structured.?output|guided", re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass
class TransportConfig:
    """What every judge that asks a model has in its config."""

    model: str = "???"  # as LiteLLM calls it: deepseek/deepseek-chat, openai/NAME for an OpenAI-compatible address
    api_base: Optional[str] = "???"  # null: the provider's own address; no default, or `???` in a YAML would not show
    api_key_env: Optional[str] = None  # name of the variable that holds the key; null: the server wants none
    temperature: Optional[float] = 0.0  # null: not sent
    max_tokens: int = 1024
    concurrency: int = 8  # requests under way at once
    timeout_s: float = 120.0
    retries: int = 5  # after the first attempt; only where another one may help (429, 5xx, timeouts)
    cache: Optional[str] = None  # a file that keeps valid replies; null: ask anew every time
    budget_usd: Optional[float] = None  # no call that could go over it is sent
    usd_per_million_in: Optional[float] = None  # price of tokens where LiteLLM knows none, or another than yours
    usd_per_million_out: Optional[float] = None


@dataclass(frozen=True)
class Reply:
    """What came back. `text` counts only under status "ok"; `error` is the reason for any other status."""

    status: str  # ok | refused | error | over_budget | not_asked
    text: str = ""
    cut_off: bool = False  # ended at max_tokens
    tokens: Optional[int] = None
    cost_usd: Optional[float] = None  # None: LiteLLM has no price for this model
    error: Optional[str] = None
    cached: bool = False
    prompt_tokens: Optional[int] = None
    output_tokens: Optional[int] = None


class Transport:
    """Sends chat messages to one model. Its key is read from the environment and shown nowhere.

    Messages to the user name options as they stand below `where`, and the model's name by `model_option`."""

    def __init__(self, config: TransportConfig, where: str = "judge", model_option: Optional[str] = None):
        for key, least in (("concurrency", 1), ("retries", 0), ("max_tokens", 1)):
            if getattr(config, key) < least:
                raise BadInput(f"{where}.{key}={getattr(config, key)}: at least {least}")
        if config.timeout_s <= 0:
            raise BadInput(f"{where}.timeout_s={config.timeout_s}: more than 0 seconds")
        self.config, self.where, self.model_option = config, where, model_option or f"{where}.model"
        secrets.know_variable(config.api_key_env)
        if (config.usd_per_million_in is None) != (config.usd_per_million_out is None):
            raise BadInput(f"{where}.usd_per_million_in, usd_per_million_out: give both or none")
        self._schema_refused = False
        self._stop = threading.Event()
        self._cache: Optional[ReplyCache] = None
        self.budget = Budget(config.budget_usd)

    def check(self) -> None:
        """BadInput for what would make every call fail; nothing is sent."""
        config, where = self.config, self.where
        if config.api_key_env and not secrets.names_a_variable(config.api_key_env):
            # Not shown: it is most likely the key itself.
            raise BadInput(
                f"{where}.api_key_env: not the name of a variable; export the key and give the variable's name"
            )
        if config.api_key_env and not self._key():
            # No colon after a key's name here, or mask() would take the next word for the key.
            raise BadInput(f"{where}.api_key_env={config.api_key_env} is not set; export it, or name another variable")
        if not (self._key().isascii() and self._key().isprintable()):
            raise BadInput(f"{where}.api_key_env={config.api_key_env} holds characters that no key has")
        if config.api_base is not None and re.match(r"https?://[^/]*@", config.api_base):
            raise BadInput(f"{where}.api_base: holds a password; give the key by its variable, {where}.api_key_env")
        if config.api_base is not None and not re.match(r"https?://[^/]", config.api_base):
            raise BadInput(f"{where}.api_base={config.api_base}: an address such as http://127.0.0.1:8000/v1")
        litellm = load_litellm()
        try:
            litellm.get_llm_provider(config.model, api_base=config.api_base)
        except litellm.exceptions.BadRequestError as error:
            raise BadInput(
                f"{self.model_option}={config.model}: no provider; write openai/{config.model} for a server's own "
                "model, or provider/NAME as LiteLLM has it"
            ) from error
        if config.budget_usd is not None and self.price() is None:
            raise BadInput(
                f"{where}.budget_usd={config.budget_usd:g}: no price is known for {config.model}; give "
                f"{where}.usd_per_million_in and {where}.usd_per_million_out"
            )

    def sees_images(self) -> bool:
        """False only for a model that LiteLLM knows, and knows to be blind."""
        return bool(info["supports_vision"]) if (info := self._info()) else True

    def price(self) -> Optional[tuple[float, float]]:
        """USD for a token in and a token out, or None when unknown."""
        if self.config.usd_per_million_in is not None:
            return self.config.usd_per_million_in / 1e6, self.config.usd_per_million_out / 1e6
        info = self._info()
        found = (info.get("input_cost_per_token"), info.get("output_cost_per_token")) if info else (None, None)
        return None if None in found else found

    def _info(self) -> Optional[dict[str, Any]]:
        try:
            return {"supports_vision": None, **load_litellm().get_model_info(self.config.model)}
        except Exception:  # LiteLLM raises a bare Exception for a model that is not in its table
            return None

    def each(self, jobs: Sequence[Job], work: Callable[[Job], Result]) -> Iterator[Result]:
        """work(job) for all jobs, `concurrency` at once; results as they come.

        Daemon threads, not a pool: a pool would hold up the end of an interrupted process until the last request
        has timed out.
        """
        todo: queue.SimpleQueue = queue.SimpleQueue()
        done: queue.SimpleQueue = queue.SimpleQueue()
        for job in jobs:
            todo.put(job)
        self._stop.clear()
        if self.config.cache and self._cache is None:
            self._cache = ReplyCache(Path(self.config.cache))
        load_litellm()  # here, or every thread would begin with waiting for the import

        def worker() -> None:
            while not self._stop.is_set():
                try:
                    job = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((work(job), None))
                except BaseException as error:  # raised where the results are read, or that side would wait for ever
                    done.put((None, error))

        for _ in range(min(self.config.concurrency, len(jobs))):
            threading.Thread(target=worker, daemon=True).start()
        try:
            for _ in jobs:
                result, error = done.get()
                if error:
                    raise error
                yield result
        finally:
            self._stop.set()

    def ask(
        self,
        messages: list[dict[str, Any]],
        schema: Optional[dict[str, Any]] = None,
        invalid: Callable[[str], Optional[str]] = lambda text: None,
        nonce: str = "",
        more: Mapping[str, Any] = {},
    ) -> Reply:
        """One reply, JSON after `schema` where there is one. Never raises: an error is a Reply that says so.

        `invalid` says what is wrong with a reply's text; such a reply is asked for once more, with that reason. Valid
        ones are cached; `nonce` tells apart what is asked twice on purpose. `more` are further parameters of the chat
        protocol; those that the provider does not have are not sent.
        """
        config, key = self.config, ""
        if self._cache:  # else no key: hashing the screenshots of every request takes its time
            key = ReplyCache.key(
                *(config.model, config.api_base, config.temperature, config.max_tokens, schema, messages, nonce),
                *([dict(more)] if more else []),
            )
            if found := self._cache.get(key):
                return Reply("ok", **found, cost_usd=0.0, cached=True)
        optional = dict(more)
        if schema is not None:
            form = {"name": "verdict", "strict": True, "schema": schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": form}
        reply = self._paid(messages, optional)
        if reply.status == "ok" and (wrong := invalid(reply.text)):
            shown = reply.text[:MENDED_CHARS]
            said = [{"role": "assistant", "content": shown}] if shown.strip() else []
            again = self._paid([*messages, *said, {"role": "user", "content": MEND.format(wrong)}], optional)
            spent = {"tokens": reply.tokens, "cost_usd": reply.cost_usd}
            if not _for_nothing(again):
                spent = {name: _sum(one, getattr(again, name)) for name, one in spent.items()}
            # A second attempt that came to nothing leaves the first, which shows what is wrong.
            reply = replace(again if again.status in ("ok", "refused") else reply, **spent)
        if self._cache and reply.status == "ok" and reply.text.strip() and not invalid(reply.text):
            self._cache.put(key, {name: getattr(reply, name) for name in CACHED})
        return reply

    def _paid(self, messages: list[dict[str, Any]], optional: dict[str, Any]) -> Reply:
        """A reply within the budget."""
        price = self.price() if self.budget.limit is not None else None
        most = self.at_most(messages, price) if price else 0.0
        if not self.budget.set_aside(most):
            limit = f"{self.where}.budget_usd={self.budget.limit:g}"
            return Reply(
                "over_budget", error=f"{limit}: {self.budget.spent:.4f} USD spent, the next may take {most:.4f}"
            )
        reply = self._tried(messages, optional)
        self.budget.settle(most, 0.0 if _for_nothing(reply) else reply.cost_usd)
        return reply

    def at_most(self, messages: Sequence[dict[str, Any]], price: tuple[float, float]) -> float:
        """USD that one call may cost."""
        contents = (m["content"] if isinstance(m["content"], list) else [{"text": m["content"]}] for m in messages)
        parts = [part for content in contents for part in content]
        # A letter is a token at most, roughly; a hard stop must not guess low.
        dearest = "4o-mini" in self.config.model or self._info() is None
        picture = DEAREST_PICTURE_TOKENS if dearest else PICTURE_TOKENS
        tokens = sum(len(part["text"]) if "text" in part else picture for part in parts)
        return price[0] * tokens + price[1] * self.config.max_tokens

    def _tried(self, messages: list[dict[str, Any]], optional: dict[str, Any]) -> Reply:
        """A reply after as many attempts as it takes and `retries` allows."""
        for attempt in range(self.config.retries + 1):
            try:
                return self._send(messages, optional)
            except Exception as error:  # LiteLLM passes on whatever the provider's client raises
                if type(error).__name__ == "ContentPolicyViolationError":
                    return Reply("refused", error=self._reason(error))
                last = attempt == self.config.retries or not _may_pass(error)
                if last or self._stop.wait(_wait_s(error, attempt)):
                    tries = f" (after {attempt + 1} attempts)" if attempt else ""
                    return Reply("error", error=self._reason(error) + tries)
        raise AssertionError("unreachable")

    def _send(self, messages: list[dict[str, Any]], optional: dict[str, Any]) -> Reply:
        litellm = load_litellm()
        if self._schema_refused:
            optional = {key: value for key, value in optional.items() if key != "response_format"}
        temperature = {} if self.config.temperature is None else {"temperature": self.config.temperature}
        try:
            response = litellm.completion(
                model=self.config.model,
                messages=messages,
                api_base=self.config.api_base,
                api_key=self._key() or "none",  # the OpenAI client will not start without any
                timeout=self.config.timeout_s,
                max_tokens=self.config.max_tokens,
                max_retries=0,  # retrying is done here; the client's own retries would multiply with it
                drop_params=True,  # reasoning models take no temperature
                **temperature,
                **optional,
            )
        except litellm.exceptions.BadRequestError as error:
            if "response_format" not in optional or not NO_SCHEMA.search(str(error)):
                raise
            # Many servers have no schemas. The prompt asks for the same JSON in words, and the reply is validated.
            log.warning("%s takes no JSON schema, going on without: %s", self.config.model, self._reason(error))
            self._schema_refused = True
            return self._send(messages, optional)
        return self._reply(response)

    def _reply(self, response: Any) -> Reply:
        usage = getattr(response, "usage", None)
        tokens = getattr(usage, "total_tokens", None) or None
        cost = None if tokens is None else self._cost(response)
        each = {f"{ours}_tokens": tokens and getattr(usage, f"{theirs}_tokens", None) for ours, theirs in TOKENS}
        spent = {"tokens": tokens, "cost_usd": cost, **each}
        if not response.choices:
            return Reply("error", error="a reply without choices", **spent)
        choice = response.choices[0]
        refusal = (getattr(choice.message, "provider_specific_fields", None) or {}).get("refusal")
        if refusal or choice.finish_reason == "content_filter":
            return Reply("refused", error=self._clean(refusal or "stopped by the provider's content filter"), **spent)
        text = self._clean(choice.message.content or "")
        return Reply("ok", text, cut_off=choice.finish_reason == "length", **spent)

    def _cost(self, response: Any) -> Optional[float]:
        if self.config.usd_per_million_in is None:
            return (getattr(response, "_hidden_params", None) or {}).get("response_cost")
        into, out = self.price()
        return into * (response.usage.prompt_tokens or 0) + out * (response.usage.completion_tokens or 0)

    def _key(self) -> str:
        # Stripped: with a line's end the HTTP client refuses the header, in an error that quotes it.
        return os.environ.get(self.config.api_key_env, "").strip() if self.config.api_key_env else ""

    def _clean(self, text: str) -> str:
        """A model's text without the key, the only one it can know: what merely looks like one is data. Nor with half
        letters (lone surrogates), which cannot be sent back."""
        return secrets.blanked(text.encode("utf-8", "replace").decode(), self._key())

    def _reason(self, error: Exception) -> str:
        """An exception as one line, without keys: some servers quote the request's headers in their errors."""
        text = str(error).partition("Traceback (most recent call last)")[0]  # LiteLLM quotes some
        text = " ".join(secrets.mask(text.encode("utf-8", "replace").decode()).split())[:500]
        name = type(error).__name__
        return text if name in text else f"{name}: {text}"


@functools.cache
def load_litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import fetches a price list
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else the import reads a .env file into our environment
    import litellm

    litellm.suppress_debug_info = True  # prints advice to stdout with every error
    for name in ("LiteLLM", "openai", "httpx", "httpcore"):  # below this they quote whole requests and replies
        logging.getLogger(name).setLevel(logging.WARNING)
    return litellm


def _sum(first: Optional[float], second: Optional[float]) -> Optional[float]:
    """Of what is known of both; None where one is not."""
    return None if first is None or second is None else first + second


def _for_nothing(reply: Reply) -> bool:
    """Nothing came back, nothing is paid for, as far as anybody can tell."""
    return reply.tokens is None and reply.status != "ok"


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and (status in (408, 409, 429) or status >= 500)


def _wait_s(error: Exception, attempt: int) -> float:
    """What the server asks for, else twice as long each time; jitter keeps the threads from coming back as one."""
    headers = getattr(error, "litellm_response_headers", None) or {}
    wait = max(FIRST_WAIT_S * 2**attempt, _retry_after_s(headers.get("retry-after", "")))
    return min(wait, LONGEST_WAIT_S) * random.uniform(1.0, 1.5)


def _retry_after_s(said: str) -> float:
    """Of the header Retry-After: seconds or a date (RFC 9110, 10.2.3); 0 for anything else."""
    if re.fullmatch(r"\s*[0-9]+(\.[0-9]*)?\s*", said):
        return float(said)
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    return (until.replace(tzinfo=until.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds()


@functools.lru_cache(maxsize=16)  # each screenshot is sent for every repeat and order
def data_url(path: Path) -> str:
    """A screenshot as a data URL, as every provider reads it right; images.BadImage where it cannot be read."""
    kind, data = images.as_sent(path)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
