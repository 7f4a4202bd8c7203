"""All statistics of a sweep: 8 models, the same 158 questions on 79 screenshots, 1,264 answers judged in both orders.

python benchmarks/compare_runs.py        (wanted: under 5 s)
"""

# Not named statistics.py: a script's folder comes first, and everything here that imports Python's own would get it.

from __future__ import annotations

import random
import time
from typing import Callable

from pairs import machine

MODELS, SCREENSHOTS, QUESTIONS, RESAMPLES = 8, 79, 2, 10_000
WANTED_S = 5


def main() -> int:
    print(machine())
    began = time.monotonic()
    from vlm_eval.statistics import agreement, bootstrap, by_answer, intervals, order_effects, paired

    print(f"imports: {time.monotonic() - began:.2f} s")
    judged = made_up()
    answers = sum(len(rows) for _, rows in judged.values())
    total = 0.0

    def timed(what: str, step: Callable[[], object]) -> object:
        nonlocal total
        start = time.monotonic()
        found = step()
        took = time.monotonic() - start
        total += took
        print(f"{what}: {took:.2f} s")
        return found

    runs = timed(
        f"scores of {answers} answers, with and without failures",
        lambda: {
            m: (by_answer.scores_by_answer(*of), by_answer.scores_by_answer(*of, failed_as=1))
            for m, of in judged.items()
        },
    )
    ok = {model: rows for model, (rows, _) in runs.items()}
    timed("t intervals", lambda: [intervals.ratio_interval(r.values()) for both in runs.values() for r in both])
    timed(
        f"bootstrap intervals, {RESAMPLES} resamples",
        lambda: [bootstrap.bootstrap_ratio(rows.values(), resamples=RESAMPLES) for rows in ok.values()],
    )
    timed("order, length, noise", lambda: [order_effects.named_order_effects("judge", *of) for of in judged.values()])
    timed(
        "alpha between orders",
        lambda: [agreement.krippendorff_alpha(agreement.ratings(js, "order")) for js, _ in judged.values()],
    )
    timed("all pairs, each model as baseline", lambda: [paired.compare_all(ok, model, margin=0.03) for model in ok])
    print(f"together {total:.2f} s (wanted: under {WANTED_S})")
    return int(total > WANTED_S)


def made_up() -> dict[str, tuple[list, list]]:
    """Model -> (judgements, answers); 3 % of the judgements failed."""
    from vlm_eval.rows import Answer, Judgement

    draw, judged = random.Random(0), {}
    for model in range(MODELS):
        judgements, answers = [], []
        for shot in range(SCREENSHOTS):
            hard = draw.gauss(0, 1)
            for question in range(QUESTIONS):
                item = f"{shot}-{question}"
                answers.append(Answer(item, 0, str(shot), "о" * draw.randint(50, 300)))
                for order in ("ab", "ba"):
                    scores = [min(10, max(1, round(draw.gauss(top + hard, 1)))) for top in (6 + model / 8, 8)]
                    status = "ok" if draw.random() > 0.03 else "invalid"
                    judgements.append(Judgement(item, 0, "j", order, 0, True, *scores, "", status))
        judged[f"model {model}"] = judgements, answers
    return judged


if __name__ == "__main__":
    raise SystemExit(main())
