"""What a sweep costs beside its engine and metrics, as its items and its runs grow: seconds and memory.

    python benchmarks/growth.py [replay-items] [replay-runs] [demo-items] [demo-runs]

`replay` has no model: recorded answers go through everything else. `demo` is the demo's bf16 model on a CPU, 8 tokens
an answer. Between two lines of a table the last column says what one more answer, or run, took. Peak memory is that of
all processes together, resident: what forks share counts once for each.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Callable, Iterator, Sequence

from pairs import machine
from processes import watched

from vlm_eval import paths

SCREENS = Path(paths.demo("screen_annotation"))
COMMON = ("judge=none", "tracking=none", "metrics=tech", "task=screen_annotation", "task.repeats=1")
DEMO = ("model=demo", "quant=bf16", "task.sampling.max_tokens=8", "engine.latency_pass.items=0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    asked = parser.parse_args().parts or list(PARTS)
    print(machine(), flush=True)
    for part in asked:
        print(f"\n{part}\n| {part.split('-')[1]} | s | peak GiB | ms for each more | of it generation |", flush=True)
        before = (0, 0.0, 0.0)
        for number, seconds, gib, generation in PARTS[part]():
            more = ""
            if before[0]:
                one = [1000 * (a - b) / (number - before[0]) for a, b in zip((seconds, generation), before[1:])]
                more = f"{one[0]:.2f} | {one[1]:.2f}"
            print(f"| {number} | {seconds:.1f} | {gib:.2f} | {more or ' | '} |", flush=True)
            before = (number, seconds, generation)


Measured = Iterator[tuple[int, float, float, float]]  # how many, wall s, peak GiB, s of generation


def replay_items() -> Measured:
    for items in (10, 100, 1_000, 10_000):
        yield items, *run(items, replayed)


def demo_items() -> Measured:
    for items in (10, 100, 1_000):
        yield items, *run(items, lambda folder: DEMO)


def replay_runs() -> Measured:
    for runs in (1, 2, 4, 8, 16, 32):
        yield runs, *run(10, replayed, runs)


def demo_runs() -> Measured:
    for runs in (1, 2, 4, 8):
        yield runs, *run(10, lambda folder: DEMO, runs)


def run(items: int, engine: Callable[[Path], Sequence[str]], runs: int = 1) -> tuple[float, float, float]:
    """A sweep of so many runs, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_items(folder, items)
        command = [sys.executable, "-m", "vlm_eval.cli", "-m", *COMMON, *engine(folder)]
        command += [f"task.data.root={folder}", f"hydra.sweep.dir={folder / 'sweep'}"]
        command += ["run.seed=" + ",".join(map(str, range(runs)))]
        seconds, gib = watched(command, folder, {**os.environ, "OMP_NUM_THREADS": "1"})
        found = [json.loads(file.read_text()) for file in folder.glob("sweep/*/summary.json")]
        answers = [len(file.read_text().splitlines()) for file in folder.glob("sweep/*/answers.jsonl")]
        if answers != [items] * runs:
            raise RuntimeError(f"{runs} runs of {items} items made {answers} answers")
        return seconds, gib, sum(summary.get("tech/generation_wall_s", 0.0) for summary in found)


def write_items(folder: Path, items: int) -> None:
    """So many rows over the demo's screenshots."""
    shutil.copytree(SCREENS / "images", folder / "images")
    pictures = sorted(file.name for file in (SCREENS / "images").iterdir())
    with open(folder / "items.csv", "w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(["item_id", "image", "reference"])
        table.writerows([n, pictures[n % len(pictures)], f"Почему не прошла оплата {n}?"] for n in range(items))


def replayed(folder: Path) -> Sequence[str]:
    with open(folder / "items.csv", encoding="utf-8", newline="") as items:
        ids = [row["item_id"] for row in csv.DictReader(items)]
    with open(folder / "answers.csv", "w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(["item_id", "repeat", "text"])
        table.writerows([item, 0, f"Не прошла оплата номер {item}, что делать?"] for item in ids)
    return ("engine=replay", f"engine.path={folder / 'answers.csv'}")


PARTS: dict[str, Callable[[], Measured]] = {
    "replay-items": replay_items,
    "replay-runs": replay_runs,
    "demo-items": demo_items,
    "demo-runs": demo_runs,
}


if __name__ == "__main__":
    main()
