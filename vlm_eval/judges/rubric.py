"""The rubric: no model. What the metrics found in both answers, as scores 1..10 with a rationale that lists it.

It comes in through LiteLLM as the provider `rubric`, like the judges that ask a model, and so gives rows of the same
kind. It may not sit on a panel: it is made of other metrics and has no opinion of its own.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from typing import Any, Iterator, Mapping, Optional, Sequence

from vlm_eval.errors import BadInput
from vlm_eval.judges import providers
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.pairwise import PairwiseJudge, PairwiseJudgeConfig
from vlm_eval.judges.transport import Reply
from vlm_eval.metrics.base import Answered
from vlm_eval.metrics.facts import Facts, FactsConfig
from vlm_eval.metrics.rouge import Rouge, RougeConfig
from vlm_eval.rows import Answer, Item, Judgement

PROVIDER, MODEL = "rubric", "rubric/facts"
RULES = 1  # another number with every change of a score
INVENTED_COUNTS = 2  # an invented share costs as much as twice that share of the facts missed


@dataclass
class RubricJudgeConfig:
    _target_: str = "???"
    name: str = "rubric"
    language: str = "ru"  # of the rationale: ru or en
    max_fail_rate: float = 0.1


class RubricJudge(PairwiseJudge):
    """Score: 1 + 9 * (found - 2 * invented), rounded, at least 1. Candidate and reference by the same rule, so that
    it leans to no place, and both orders give the same scores.

    found: share of the item's facts in the answer; where the item has none, the answer's overlap with the reference
    (ROUGE-1 F of stems). The reference then gets the full share for being itself, and the match ratio says how far the
    candidate resembles it, not how good it is; the rationale says so.
    invented: share of the answer's amounts, dates, codes and names that are not on the screen (screen_text, facts,
    question). With facts but no screen_text, what the reference says counts as on the screen: the facts are not all
    that is there, and an amount taken from elsewhere on it is no invention. With neither, nothing is held invented.
    """

    may_sit_on_a_panel = False
    source = "CODE"

    def __init__(self, config: RubricJudgeConfig):
        if config.language not in WORDS:
            raise BadInput(f"judge.language={config.language}: it is {' or '.join(WORDS)}")
        self.language = config.language
        super().__init__(
            PairwiseJudgeConfig(
                name=config.name,
                model=MODEL,
                api_base=None,
                image="never",
                concurrency=1,  # all of it is this process's own work
                retries=0,
                usd_per_million_in=0.0,
                usd_per_million_out=0.0,
                max_fail_rate=config.max_fail_rate,
            )
        )

    def instructions(self) -> str:
        return ""  # there is nobody to read them

    def check(self) -> None:
        """There is nothing that could be missing."""

    def facts(self) -> dict[str, Any]:
        made_of = {**Facts(FactsConfig()).facts(), **Rouge(RougeConfig()).facts()}
        return {"judge_model": MODEL, "judge_rules": RULES, **{f"judge_{key}": value for key, value in made_of.items()}}

    def judge(self, requests: Sequence[JudgeRequest], spent_usd: float = 0.0) -> Iterator[list[Judgement]]:
        providers.register(PROVIDER, reply)
        return super().judge(requests, spent_usd)

    def case(self, request: JudgeRequest, order: str) -> dict[str, Any]:
        item = request.item
        more = {"facts": item.facts, "screen_text": item.screen_text, "reference": item.reference}
        return {**super().case(request, order), **more, "language": self.language}

    def _row(self, request: JudgeRequest, order: str, judge_repeat: int, saw_image: bool, reply: Reply) -> Judgement:
        row = super()._row(request, order, judge_repeat, saw_image, reply)
        return replace(row, tokens=0, cost_usd=0.0) if row.status == "ok" else row


@dataclass(frozen=True)
class Finding:
    """What the metrics say of one answer."""

    hits: Sequence[str]  # facts
    misses: Sequence[str]
    inventions: Sequence[str]
    claims: int
    overlap: Optional[float]  # with the reference; None where there are facts

    @property
    def score(self) -> int:
        found = len(self.hits) / (len(self.hits) + len(self.misses)) if self.overlap is None else self.overlap
        invented = len(self.inventions) / self.claims if self.claims else 0.0
        return 1 + int(9 * max(0.0, found - INVENTED_COUNTS * invented) + 0.5)


def reply(messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], timeout_s: float) -> providers.Said:
    """The verdict on a case, as the provider `rubric` gives it. ValueError when there is nothing to go by."""
    case = json.loads(messages[-1]["content"])
    words = WORDS[case["language"]]
    known = (case["question"], case["reference"], tuple(case["facts"]), case["screen_text"])
    findings = {letter: _find(case[f"answer_{letter}"], *known) for letter in "ab"}
    lines = [_line(letter.upper(), finding, words) for letter, finding in findings.items()]
    rationale = "\n".join([*lines, words[_against(case)]])
    scores = {f"score_{letter}": finding.score for letter, finding in findings.items()}
    return providers.Said(json.dumps({"rationale": rationale, **scores}, ensure_ascii=False))


@functools.lru_cache(maxsize=1024)  # each answer is looked at in two orders, a reference beside every repeat
def _find(
    text: str, question: Optional[str], reference: str, facts: tuple[str, ...], screen_text: Optional[str]
) -> Finding:
    sources = [question, reference if facts and not screen_text else None]
    item = Item("item", "item", "", " ".join(filter(None, sources)), reference, facts, screen_text=screen_text)
    data = Answered({"item": item}, [Answer("item", 0, "item", text)], (), {})
    [found] = Facts(FactsConfig()).score(data).values()
    if isinstance(found, str):  # the item has neither facts nor screen_text
        found = {"facts_hits": [], "facts_misses": [], "facts_inventions": [], "facts_claims": 0}
    overlap = None
    if not facts:
        [overlap] = Rouge(RougeConfig()).score(data).values()
        if isinstance(overlap, str):
            raise ValueError(f"neither facts nor overlap with the reference: {overlap}")
        overlap = overlap["rouge1_f_stemmed"]
    return Finding(*(found[f"facts_{name}"] for name in ("hits", "misses", "inventions", "claims")), overlap)


# ---------------------------------------------------------------------------------------------------- the rationale

WORDS = {
    "ru": {
        "answer": "Ответ {} — {}",
        "hits": "найдено фактов {} из {}: {}",
        "misses": "пропущено: {}",
        "overlap": "совпадение с эталоном {:.0%}",
        "inventions": "выдумано {} из {}: {}",
        "quoted": "«{}»",
        "screen": "Выдуманным считается то, чего нет ни на экране, ни в вопросе.",
        "no screen": "Текста экрана у этих данных нет: выдуманным считается то, чего нет "
        "ни в фактах, ни в эталоне, ни в вопросе.",
        "no facts": "Фактов у этих данных нет, вместо них совпадение с эталоном. "
        "Выдуманным считается то, чего нет ни на экране, ни в вопросе.",
        "nothing": "Только совпадение с эталоном (ROUGE-1 по основам слов): фактов у этих данных нет.",
    },
    "en": {
        "answer": "Answer {}: {}",
        "hits": "facts found {} of {}: {}",
        "misses": "missed: {}",
        "overlap": "overlap with the reference {:.0%}",
        "inventions": "invented {} of {}: {}",
        "quoted": '"{}"',
        "screen": "Invented is what is neither on the screen nor in the question.",
        "no screen": "These data have no screen_text: invented is what is in neither facts, reference nor question.",
        "no facts": "These data have no facts, overlap with the reference stands in for them. "
        "Invented is what is neither on the screen nor in the question.",
        "nothing": "Overlap with the reference only (ROUGE-1 of word stems): these data have no facts.",
    },
}


def _line(letter: str, finding: Finding, words: Mapping[str, str]) -> str:
    def listed(things: Sequence[str]) -> str:
        return ", ".join(map(words["quoted"].format, things)) or "—"

    parts = [words["answer"].format(letter, finding.score)]
    if finding.overlap is None:
        parts.append(words["hits"].format(len(finding.hits), len(finding.hits + finding.misses), listed(finding.hits)))
    else:
        parts.append(words["overlap"].format(finding.overlap))
    if finding.misses:
        parts.append(words["misses"].format(listed(finding.misses)))
    if finding.claims:
        count = (len(finding.inventions), finding.claims)
        parts.append(words["inventions"].format(*count, listed(finding.inventions)))
    return "; ".join(parts) + "."


def _against(case: Mapping[str, Any]) -> str:
    """What was held against what: a key of WORDS."""
    if case["facts"]:
        return "screen" if case["screen_text"] else "no screen"
    return "no facts" if case["screen_text"] else "nothing"
