"""Candidate against reference: an LLM scores both answers, not knowing which is which, in both orders.

Both orders, not a random one: a judge leans to a place, and the mean of the two takes the lean out of every item.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Sequence

from vlm_eval import paths
from vlm_eval.errors import BadInput
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.transport import Reply, Transport, TransportConfig, data_url
from vlm_eval.rows import Judgement

ORDERS = ("ab", "ba")  # "ab": the candidate is Answer A
CHARS_PER_TOKEN = 3  # of Russian text; this and the next two only for the estimate of the cost
ANSWERS_TOKENS = 400
IMAGE_TOKENS = 1500


@dataclass
class PairwiseJudgeConfig(TransportConfig):
    _target_: str = "???"
    name: str = "???"  # stands in every judgement
    prompt: str = "pairwise.ru.txt"  # a file of conf/judge/prompts, or a path
    image: str = "auto"  # auto: unless LiteLLM knows the model to be blind; required; never
    max_fail_rate: float = 0.1  # the run fails when a larger share of judgements has no scores


class PairwiseJudge:
    """Two calls an answer. Answers without text and items without a reference are not sent."""

    def __init__(self, config: PairwiseJudgeConfig):
        if config.image not in ("auto", "required", "never"):
            raise BadInput(f"judge.image={config.image}: it is auto, required or never")
        file = paths.prompt(config.prompt, "judge")
        if not file.is_file():
            raise BadInput(f"judge.prompt={config.prompt}: no such prompt file, here or in conf/judge/prompts")
        self.config = config
        self.name = config.name
        self.system = file.read_text(encoding="utf-8").strip()
        self.transport = Transport(config)

    def check(self) -> None:
        """BadInput for what would make every judgement fail; nothing is sent."""
        self.transport.check()
        if self.config.image == "required" and not self.transport.sees_images():
            raise BadInput(f"judge.image=required: {self.config.model} sees no images; another model, or image=auto")

    def facts(self) -> dict[str, Optional[str]]:
        """What goes into provenance about the judge."""
        digest = hashlib.sha256(self.system.encode()).hexdigest()
        return {"judge_model": self.config.model, "judge_prompt_sha256": digest}

    def cost(self, answers: int) -> tuple[int, Optional[float]]:
        """(calls, USD or None when unknown) for so many answers; a high guess: every verdict as long as allowed."""
        calls = answers * len(ORDERS)
        price = self.transport.price()
        if price is None:
            return calls, None
        image = 0 if self.config.image == "never" else IMAGE_TOKENS
        sent = len(self.system) / CHARS_PER_TOKEN + ANSWERS_TOKENS + image
        return calls, calls * (price[0] * sent + price[1] * self.config.max_tokens)

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[list[Judgement]]:
        todo = []
        for request in requests:
            orders = [order for order in ORDERS if (order, 0) not in request.done]
            reason = _why_not(request)
            if reason is None:
                todo += [(request, order) for order in orders]
            elif orders:
                yield [self._row(request, order, False, Reply("error", error=reason)) for order in orders]
        if not todo:
            return
        show = self.config.image == "required" or self.config.image == "auto" and self.transport.sees_images()
        for row in self.transport.each(todo, lambda job: self._judge_one(*job, show)):
            yield [row]

    def _judge_one(self, request: JudgeRequest, order: str, show: bool) -> Judgement:
        try:
            image = data_url(request.image) if show else None
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for broken files, by format
            return self._row(request, order, False, Reply("error", error=f"screenshot: {error}"))
        reply = self.transport.ask(self._messages(request, order, image), _verdict().model_json_schema())
        return self._row(request, order, show, reply)

    def _messages(self, request: JudgeRequest, order: str, image: Optional[str]) -> list[dict[str, Any]]:
        first, second = request.answer.text, request.item.reference
        if order == "ba":
            first, second = second, first
        # As JSON, so that no answer can end its own quotation and go on as an instruction.
        case = {
            "screenshot_attached": image is not None,
            "question": request.item.question,
            "answer_a": first,
            "answer_b": second,
        }
        parts: list[dict[str, Any]] = [{"type": "text", "text": json.dumps(case, ensure_ascii=False, indent=1)}]
        if image:
            parts.insert(0, {"type": "image_url", "image_url": {"url": image}})
        # A server of text alone may not know lists of parts.
        content = parts if image else parts[0]["text"]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": content}]

    def _row(self, request: JudgeRequest, order: str, saw_image: bool, reply: Reply) -> Judgement:
        status, error, scores, rationale = reply.status, reply.error, (None, None), None
        if status == "ok":
            try:
                verdict = parse(reply.text)
                scores, rationale = (verdict.score_a, verdict.score_b), verdict.rationale
            except ValueError as invalid:
                # What it said instead is kept for whoever looks into it.
                status, error, rationale = "invalid", str(invalid), reply.text[:2000] or None
                if reply.cut_off:
                    error = f"cut off at max_tokens={self.config.max_tokens}: {error}"
        candidate, reference = scores if order == "ab" else scores[::-1]
        return Judgement(
            item_id=request.item.item_id,
            repeat=request.answer.repeat,
            judge=self.name,
            order=order,
            judge_repeat=0,
            saw_image=saw_image,
            candidate_score=candidate,
            reference_score=reference,
            rationale=rationale,
            status=status,
            tokens=reply.tokens,
            cost_usd=reply.cost_usd,
            error=error,
        )


def _why_not(request: JudgeRequest) -> Optional[str]:
    if not (request.answer.text or "").strip():
        return "no answer"
    return None if (request.item.reference or "").strip() else "no reference"


@functools.cache
def _verdict() -> Any:
    """The pydantic model of a verdict; made at the first use, because pydantic is slow to import."""
    import pydantic

    class Verdict(pydantic.BaseModel):
        # Strict: "7", 7.5 and true are no scores. Further keys are let pass, but the schema forbids them.
        model_config = pydantic.ConfigDict(strict=True, json_schema_extra={"additionalProperties": False})
        rationale: str  # first: scores that follow the reasons are better than reasons that follow the scores
        score_a: int = pydantic.Field(ge=1, le=10)
        score_b: int = pydantic.Field(ge=1, le=10)

    return Verdict


def parse(text: str) -> Any:
    """The verdict in a reply: JSON, bare or in a Markdown fence. ValueError says what is wrong; nothing is mended."""
    import pydantic

    text = re.sub(r"\A\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    if not text:
        raise ValueError("empty reply")
    fenced = None if text.startswith("{") else re.search(r"```\w*\s*(\{.*\})\s*```", text, re.DOTALL)
    try:
        return _verdict().model_validate_json(fenced[1] if fenced else text)
    except pydantic.ValidationError as error:
        # Without the input itself: the caller keeps the whole reply.
        reasons = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
        raise ValueError("; ".join(reasons)) from error
