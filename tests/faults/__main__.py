"""`python -m tests.faults [NAME ...]`: the campaign as a table, written into docs/reliability.md when all faults were
tried."""

from __future__ import annotations

import re
import sys
import tempfile
import traceback
from pathlib import Path

from .campaign import befall, clean, table
from .faults import FAULTS
from .test_campaign import RELIABILITY


def main() -> int:
    asked = sys.argv[1:]
    faults = [f for f in FAULTS if not asked or any(name in f.name for name in asked)]
    outcomes, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "clean").mkdir()
        expected = clean(Path(folder) / "clean")
        for number, fault in enumerate(faults):
            root = Path(folder) / str(number)
            root.mkdir()
            try:
                outcomes.append(befall(fault, root, *expected))
                print(f"as it should be: {fault.name} ({outcomes[-1].seconds:.0f} s)", file=sys.stderr, flush=True)
            except Exception:
                wrong.append(fault.name)
                print(f"WRONG: {fault.name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    print(table(outcomes))
    if not asked and not wrong:
        text = RELIABILITY.read_text(encoding="utf-8")
        marked = re.compile(r"(<!-- faults -->\n).*(<!-- /faults -->)", re.S)
        RELIABILITY.write_text(marked.sub(lambda m: m[1] + table(outcomes) + m[2], text), encoding="utf-8")
    print(f"{len(outcomes)} of {len(faults)} faults: nothing lost, nothing doubled", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
