"""Scoring recorded answers: seconds of each metric that needs no checkpoint, and how a whole run grows with its rows.

python benchmarks/scoring.py TABLE                       each metric over the recorded answers of the study
python benchmarks/scoring.py --rows 25000,50000,100000   a run over so many made-up answers: seconds, peak memory
"""

from __future__ import annotations

import argparse
import csv
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pairs import machine
from PIL import Image

METRICS = ("tech", "rouge", "chrf", "bleu", "similarity", "facts", "consistency", "language")
GROWING = "[tech,rouge,chrf,bleu,facts,consistency]"  # similarity and language take hours over 100,000 answers
WORDS = (
    "оплата перевод карта счёт ошибка заказ доставка приложение пароль вход код лимит банк магазин кнопка экран "
    "не прошла списали вернули отменён недоступен попробуйте позже подскажите пожалуйста почему когда рублей"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--rows", default="")
    chosen = parser.parse_args()
    print(machine())
    if chosen.table:
        time_metrics(chosen.table, chosen.metrics.split(","))
    for rows in filter(None, chosen.rows.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            run_over(Path(folder), int(rows))


def time_metrics(table: Path, names: list[str]) -> None:
    """All candidates' answers in one process, each metric in turn; a candidate's answer is a repeat of its own."""
    from hydra import compose, initialize_config_dir

    from vlm_eval import config, paths, resolvers
    from vlm_eval.metrics.base import Answered
    from vlm_eval.rows import Answer, Item

    resolvers.register_resolvers()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        cfg = config.validate(compose("config", [f"metrics=[{','.join(names)}]"]))
    items, answers = {}, []
    with open(table, encoding="utf-8", newline="") as rows:
        for number, row in enumerate(csv.DictReader(rows)):
            image = row["image"]
            # The study's items have no facts; its references stand in for the screen, to give the metric work.
            more = {"reference": row["reference"], "facts": ("оплата",), "screen_text": row["reference"]}
            items[image] = Item(image, image, image, **more)
            answers.append(Answer(image, number, image, row["candidate"]))
    data_set = Answered(items, answers, [], {})
    total = 0.0
    for name in names:
        began = time.perf_counter()
        metric = config.build(cfg.metrics[name])
        found = metric.score(data_set)
        took = time.perf_counter() - began
        total += took if name != "language" else 0.0
        scored = sum(not isinstance(columns, str) for columns in found.values())
        print(
            f"{name}: {took:.2f} s, {scored} of {len(answers)} answers scored, {dict(metric.facts()) or ''}", flush=True
        )
    print(f"all but language: {total:.1f} s")


def run_over(folder: Path, rows: int) -> None:
    """A replayed run over distinct made-up answers, 5 repeats an item, 100 screenshots."""
    (folder / "images").mkdir()
    for number in range(100):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / "images" / f"{number}.png")
    draw = random.Random(0)

    def text(number: int) -> str:
        return " ".join(draw.choices(WORDS, k=25)) + f" {number} ₽, 30.12.2022."

    with open(folder / "items.csv", "w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(["item_id", "image", "reference", "facts"])
        table.writerows([n, f"{n % 100}.png", text(n), f'["{n} ₽", "30.12.2022"]'] for n in range(rows // 5))
    with open(folder / "answers.csv", "w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(["item_id", "repeat", "text", "latency_s"])
        table.writerows([n // 5, n % 5, text(n), 0.5] for n in range(rows))
    command = [sys.executable, "-m", "vlm_eval.cli", "engine=replay", f"engine.path={folder}/answers.csv"]
    command += [f"metrics={GROWING}", "judge=none", "tracking=none", f"hydra.run.dir={folder}/run"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest process so far
    print(f"{rows} rows: {took:.0f} s, {1000 * took / rows:.2f} ms a row, peak {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
