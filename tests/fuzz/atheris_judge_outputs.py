"""The reader of judges' replies under atheris, which looks for bytes that reach new lines of it.

No part of the tests, because atheris is not installed with them:

    .venv/bin/python -m pip install --target ATHERIS atheris
    PYTHONPATH=ATHERIS .venv/bin/python -m tests.fuzz.atheris_judge_outputs -max_total_time=300 [CORPUS]

It ends at the first reply that crashes the reader or is taken for a verdict that it is not, and names the file with it.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["vlm_eval.judges.llm"]):
    from tests.fuzz.judge_outputs import PIECES, WRAPPINGS, check

VERDICT = '{"rationale": "потому что", "score_a": 7, "score_b": 2}'


def one(data: bytes) -> None:
    """The bytes as a reply; and as the choice of pieces, which bytes alone hardly ever make."""
    check(data.decode("utf-8", "surrogateescape"))
    if data:
        wrapping = WRAPPINGS[data[0] % len(WRAPPINGS)]
        text = VERDICT
        for place, piece in zip(data[1::2], data[2::2]):
            at = place % (len(text) + 1)
            text = text[:at] + PIECES[piece % len(PIECES)] + text[at:]
        check(wrapping.replace("{}", text))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
