"""Why something is not compared or not let through: in English, and as a rule that a report words in its language."""

from __future__ import annotations

from typing import Any, Callable, Mapping

RULES = {  # by name: the words, with the numbers they need
    "not_ended": "the run is {state}{error}",
    "baseline_not_ended": "cannot say: the baseline is {state}",
    "no_baseline": "cannot say: {error}",
    "another_judge": "another judge, or another prompt of the judge, than the baseline's",
    "nothing_scored_in_common": "cannot say: no scored answer in common with the baseline",
    "nothing_judged_in_common": "cannot say: no judged answer in common with the baseline",
    "few_screenshots": "cannot say: {why}",
    "may_be_worse": "may be worse by {worse:.3g}, the margin is {margin:g}",
    "not_measured": "cannot say: no {name}",
    "no_p95": "cannot say: no {name}, it needs 20 timed answers (engine.latency_pass.items=20)",
    "over_limit": "{name} {value:.3g} {unit} is over {limit:g}",
    "fail_more": "{ours:.1%} of its answers failed, of the baseline's {theirs:.1%}",
    "score_less": "{ours:.1%} of its answers have no score, of the baseline's {theirs:.1%}",
    "differs": "{metric}: not comparable between all runs, {fact} differs: {makers}",
    "maker": "{maker} ({count} runs)",
    "not_scored": "{metric}: not scored in {count} of {total} runs: {why}",
}


class Reason(str):
    """The English words as text; `rule` and `words` say the same to who speaks another language.

    A list among the words is of reasons."""

    rule: str
    words: dict[str, Any]

    def __new__(cls, rule: str, **words: Any) -> "Reason":
        reason = super().__new__(cls, worded(RULES, rule, words))
        reason.rule, reason.words = rule, words
        return reason

    def __reduce__(self) -> Any:
        return _made, (self.rule, self.words)

    def say(self, rules: Mapping[str, str], number: Callable[[float], Any] = float) -> str:
        """In the words of `rules`, which has the names of RULES; fractions as `number` formats them."""
        return worded(rules, self.rule, {k: _said(v, rules, number) for k, v in self.words.items()})


def _made(rule: str, words: Mapping[str, Any]) -> Reason:
    """For copy and pickle."""
    return Reason(rule, **words)


def worded(rules: Mapping[str, str], rule: str, words: Mapping[str, Any]) -> str:
    return rules[rule].format(**{k: ", ".join(v) if isinstance(v, list) else v for k, v in words.items()})


def _said(word: Any, rules: Mapping[str, str], number: Callable[[float], Any]) -> Any:
    if isinstance(word, list):
        return [one.say(rules, number) for one in word]
    return number(word) if isinstance(word, float) else word
