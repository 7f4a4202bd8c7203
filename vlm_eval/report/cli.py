"""A report on a finished sweep, from its run folders alone: index.html, report.md, plots and three workbooks.

    vlm-eval-report SWEEP_DIR [--language en] [--baseline quant=bf16] [--margin 0.05]

It is also made at the end of each sweep and of vlm-eval-judge, in SWEEP_DIR/report, with the options that were given
here last. Exit code 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from vlm_eval.errors import BadInput, one_line
from vlm_eval.secret_input import guarded


@guarded("vlm-eval-report")
def main() -> int:
    parser = argparse.ArgumentParser(
        "vlm-eval-report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sweep_dir", type=Path)
    add("--language", choices=("ru", "en"), help="default: ru")
    add("--out", type=Path, help="default: SWEEP_DIR/report")
    add("--baseline", metavar="KEY=VALUE[,KEY=VALUE]", help="default: the sweep's statistics.baseline, else quant=bf16")
    add("--margin", type=_share, help="a loss that would not matter, as a ratio; default: the sweep's, else 0.05")
    add("--max-latency-p95", type=_positive, metavar="SECONDS", help="a limit of the recommendation")
    add("--max-gib", type=_positive, metavar="GIB", help="a limit of the recommendation: peak memory")
    asked = parser.parse_args()
    began = time.monotonic()
    from vlm_eval.report.write import write_report

    given = {name: value for name, value in vars(asked).items() if name not in ("sweep_dir", "out")}
    try:
        out = write_report(asked.sweep_dir, asked.out, **given)
    except BadInput as error:
        print(f"vlm-eval-report: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # --out is a file, or a folder that cannot be written
        print(f"vlm-eval-report: cannot be written: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"{out}/index.html, report.md, plots and three workbooks beside it ({time.monotonic() - began:.1f} s)")
    return 0


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def _share(text: str) -> float:
    if not (number := _positive(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no ratio such as 0.05, which stands for 5 points")
    return number


if __name__ == "__main__":
    sys.exit(main())
