"""What all judges that ask a language model have in common: prompt, screenshot, reply to row.

A subclass says what the model is shown (`case`), what it must reply (`schema`) and whose scores those are (`scores`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Iterator, Mapping, Optional, Sequence

from vlm_eval import paths
from vlm_eval.errors import BadInput
from vlm_eval.judges.base import Judge, JudgeRequest
from vlm_eval.judges.fence import instructions_in
from vlm_eval.judges.redact import Redact, RedactConfig
from vlm_eval.judges.transport import Reply, Transport, TransportConfig, data_url
from vlm_eval.rows import Judgement

CHARS_PER_TOKEN = 3  # of Russian text; this and the next two only for the estimate of the cost
ANSWERS_TOKENS = 400
IMAGE_TOKENS = 1500
MOST_CHARS = 100_000  # a longer reply is no verdict


@dataclass
class LlmJudgeConfig(TransportConfig):
    _target_: str = "???"
    name: str = "???"  # stands in every judgement
    prompt: str = "???"  # a file of conf/judge/prompts, or a path
    image: str = "auto"  # auto: unless LiteLLM knows the model to be blind; required; never
    repeats: int = 1  # times each answer is judged in each order, for the judge's own noise
    rationale_chars: Optional[int] = None  # longest rationale, in the schema; null: no bound, as OpenAI wants it
    max_fail_rate: float = 0.1  # the run fails when a larger share of judgements has no scores
    redact: RedactConfig = field(default_factory=RedactConfig)


class LlmJudge(Judge):
    """Answers without text are not sent, nor items without a reference."""

    calls_an_answer = 1
    needs_both = False  # whether it scores the reference too
    may_sit_on_a_panel = True

    def __init__(self, config: LlmJudgeConfig):
        if config.image not in ("auto", "required", "never"):
            raise BadInput(f"judge.image={config.image}: it is auto, required or never")
        if config.repeats < 1:
            raise BadInput(f"judge.repeats={config.repeats}: at least 1")
        if config.rationale_chars is not None and config.rationale_chars < 1:
            raise BadInput(f"judge.rationale_chars={config.rationale_chars}: at least 1")
        self.config = config
        self.name = config.name
        self.names = (config.name,)
        self.system = self.instructions()
        self.redact = Redact(config.redact)
        self.transport = Transport(config)

    def instructions(self) -> str:
        """What the model is told before every case."""
        file = paths.prompt(self.config.prompt, "judge")
        if not file.is_file():
            raise BadInput(f"judge.prompt={self.config.prompt}: no such prompt file, here or in conf/judge/prompts")
        return file.read_text(encoding="utf-8").strip()

    # What a subclass gives.

    def orders(self, request: JudgeRequest, judge_repeat: int) -> Sequence[str]:
        """In which orders this answer is judged."""
        raise NotImplementedError

    def case(self, request: JudgeRequest, order: str) -> dict[str, Any]:
        """What the model is shown beside the screenshot: texts under their names."""
        raise NotImplementedError

    def schema(self) -> Any:
        """The pydantic model of a reply; rationale first."""
        raise NotImplementedError

    def scores(self, verdict: Any, order: str) -> tuple[int, Optional[int]]:
        """(candidate's score, reference's score or None where none is given)."""
        raise NotImplementedError

    # What they share.

    def check(self) -> None:
        self.transport.check()
        if self.config.image == "required":
            if self.config.redact.enabled:
                raise BadInput("judge.image=required: judge.redact leaves the screenshot out; choose one of the two")
            if not self.transport.sees_images():
                raise BadInput(
                    f"judge.image=required: {self.config.model} sees no images; another model, or image=auto"
                )

    def facts(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.system.encode()).hexdigest()
        return {"judge_model": self.config.model, "judge_prompt_sha256": digest}

    def cost(self, answers: int) -> tuple[int, Optional[float]]:
        """(calls, USD or None when unknown) for so many answers; a high guess: every verdict as long as allowed."""
        calls = answers * self.calls_an_answer * self.config.repeats
        price = self.transport.price()
        if price is None:
            return calls, None
        image = IMAGE_TOKENS if self._show() else 0
        sent = len(self.system) / CHARS_PER_TOKEN + ANSWERS_TOKENS + image
        return calls, calls * (price[0] * sent + price[1] * self.config.max_tokens)

    def judge(self, requests: Sequence[JudgeRequest], spent_usd: float = 0.0) -> Iterator[list[Judgement]]:
        self.transport.budget.spent = spent_usd
        todo = []
        for request in requests:
            jobs = [
                (request, order, judge_repeat)
                for judge_repeat in range(self.config.repeats)
                for order in self.orders(request, judge_repeat)
                if (self.name, order, judge_repeat) not in request.done
            ]
            reason = self._why_not(request)
            if reason is None:
                todo += jobs
            elif jobs:
                yield [self._row(*job, False, Reply("not_asked", error=reason)) for job in jobs]
        if not todo:
            return
        show = self._show()
        for row in self.transport.each(todo, lambda job: self._judge_one(*job, show)):
            yield [row]

    def _show(self) -> bool:
        if self.config.redact.enabled:  # a picture cannot be masked
            return False
        return self.config.image == "required" or self.config.image == "auto" and self.transport.sees_images()

    def _why_not(self, request: JudgeRequest) -> Optional[str]:
        if not (request.answer.text or "").strip():
            return "no answer"
        if not (request.item.reference or "").strip():
            return request.item.no_reference or "no reference"
        return None

    def _judge_one(self, request: JudgeRequest, order: str, judge_repeat: int, show: bool) -> Judgement:
        try:
            image = data_url(request.image) if show else None
        except (OSError, ValueError) as error:  # a ValueError is images.BadImage
            return self._row(request, order, judge_repeat, False, Reply("error", error=f"screenshot: {error}"))
        messages = self.messages(request, order, image)
        # The answer's own repeat too: two equal answers are two judgements, as two people's would be.
        nonce = f"{self.name} {order} {request.answer.repeat} {judge_repeat}"
        form = self.schema().model_json_schema()
        if self.config.rationale_chars is not None:  # guides; a longer one is as valid, if less to the point
            form["properties"]["rationale"] |= {"minLength": 1, "maxLength": self.config.rationale_chars}
        reply = self.transport.ask(messages, form, self._invalid, nonce)
        return self._row(request, order, judge_repeat, image is not None, reply)

    def messages(self, request: JudgeRequest, order: str, image: Optional[str]) -> list[dict[str, Any]]:
        # As JSON, so that no answer can end its own quotation and go on as an instruction.
        case = {"screenshot_attached": image is not None, **self.redact(self.case(request, order))}
        parts: list[dict[str, Any]] = [{"type": "text", "text": json.dumps(case, ensure_ascii=False, indent=1)}]
        if image:
            parts.insert(0, {"type": "image_url", "image_url": {"url": image}})
        # A server of text alone may not know lists of parts.
        content = parts if image else parts[0]["text"]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": content}]

    def _invalid(self, text: str) -> Optional[str]:
        """What is wrong with a reply, for the one attempt to have it mended."""
        try:
            parse(text, self.schema())
        except ValueError as error:
            return str(error)
        return None

    def _row(self, request: JudgeRequest, order: str, judge_repeat: int, saw_image: bool, reply: Reply) -> Judgement:
        row = Judgement(
            item_id=request.item.item_id,
            repeat=request.answer.repeat,
            judge=self.name,
            order=order,
            judge_repeat=judge_repeat,
            saw_image=saw_image,
            candidate_score=None,
            reference_score=None,
            rationale=None,
            status=reply.status,
            tokens=reply.tokens,
            cost_usd=reply.cost_usd,
            error=reply.error,
            cached=reply.cached,
            flag=instructions_in(request.answer.text or ""),
        )
        if reply.status != "ok":
            return row
        try:
            verdict = parse(reply.text, self.schema())
        except ValueError as invalid:
            cut = f"cut off at max_tokens={self.config.max_tokens}: " if reply.cut_off else ""
            # What it said instead is kept for whoever looks into it.
            return replace(row, status="invalid", error=f"{cut}{invalid}", rationale=reply.text[:2000] or None)
        candidate, reference = self.scores(verdict, order)
        return replace(row, candidate_score=candidate, reference_score=reference, rationale=verdict.rationale)


@functools.cache
def verdict_schema(*scores: str) -> Any:
    """A pydantic model: `rationale`, then integer scores 1..10 under these names. Made at the first use, because
    pydantic is slow to import."""
    import pydantic

    fields: Mapping[str, Any] = {name: (int, pydantic.Field(ge=1, le=10)) for name in scores}
    # Rationale first: scores that follow the reasons are better than reasons that follow the scores. Strict: "7", 7.5
    # and true are no scores. Further keys are let pass, but the schema forbids them.
    config = pydantic.ConfigDict(strict=True, json_schema_extra={"additionalProperties": False})
    return pydantic.create_model("Verdict", __config__=config, rationale=(str, ...), **fields)


def parse(text: str, schema: Any) -> Any:
    """The verdict in a reply: JSON, bare or in a Markdown fence. ValueError says what is wrong; nothing is mended."""
    import pydantic

    text = re.sub(r"\A\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    if not text:
        raise ValueError("empty reply")
    if len(text) > MOST_CHARS:
        raise ValueError(f"a reply of {len(text)} characters")
    text = _unfenced(text)
    try:
        verdict = schema.model_validate_json(text)
    except pydantic.ValidationError as error:
        # Without the input itself: the caller keeps the whole reply.
        reasons = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
        raise ValueError("; ".join(reasons)) from error
    json.loads(text, object_pairs_hook=_once, parse_constant=_no_json)  # which pydantic lets pass
    return verdict


def _unfenced(text: str) -> str:
    """What stands between the first fence and the last; the text itself where there are none.

    Braces outside may be the verdict that is meant, and the fenced one a draft or an answer's own, quoted."""
    if text.startswith("{"):
        return text
    before, _, rest = text.partition("```")
    inside, fence, after = rest.rpartition("```")
    if not fence:
        return text
    if "<think>" in before or "{" in before + after:
        raise ValueError("the fenced JSON is not all: there are thoughts without an end or braces outside of it")
    return re.sub(r"\A\w*\s*", "", inside)


def _once(pairs: Sequence[tuple[str, Any]]) -> None:
    """Of two scores under one name nobody knows which is meant."""
    if twice := sorted(key for key, n in Counter(key for key, _ in pairs).items() if n > 1):
        raise ValueError(f"{', '.join(twice)}: more than once")


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
