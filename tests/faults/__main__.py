"""`python -m tests.faults [NAME ...]`: the campaign as a table, written into docs/reliability.md when all faults were
tried."""

from __future__ import annotations

import re
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

from _pytest.outcomes import Failed

from .campaign import Outcome, befall, clean, table
from .faults import FAULTS, Fault
from .test_campaign import RELIABILITY

AT_ONCE = 3  # they wait more than they work


def main() -> int:
    asked = sys.argv[1:]
    faults = [f for f in FAULTS if not asked or any(name in f.name for name in asked)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        (Path(folder) / "clean").mkdir()
        expected = clean(Path(folder) / "clean")
        tried = pool.map(lambda pair: _try(pair[1], Path(folder) / str(pair[0]), *expected), enumerate(faults))
        outcomes = [outcome for outcome in tried if outcome]
    wrong = len(faults) - len(outcomes)
    print(table(outcomes))
    if not asked and not wrong:
        text = RELIABILITY.read_text(encoding="utf-8")
        marked = re.compile(r"(<!-- faults -->\n).*(<!-- /faults -->)", re.S)
        RELIABILITY.write_text(marked.sub(lambda m: m[1] + table(outcomes) + m[2], text), encoding="utf-8")
    print(f"{len(outcomes)} of {len(faults)} faults: nothing lost, nothing doubled", file=sys.stderr)
    return 1 if wrong else 0


def _try(fault: Fault, root: Path, *expected: Any) -> Optional[Outcome]:
    root.mkdir()
    try:
        outcome = befall(fault, root, *expected)
        print(f"as it should be: {fault.name} ({outcome.seconds:.0f} s)", file=sys.stderr, flush=True)
        return outcome
    except (Exception, Failed):
        print(f"WRONG: {fault.name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return None


if __name__ == "__main__":
    sys.exit(main())
