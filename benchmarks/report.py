"""How long a report takes, how much memory, and how long its page takes to open: of a finished sweep, or of one
multiplied to so many runs and items.

python benchmarks/report.py SWEEP_DIR                          # as it is
python benchmarks/report.py SWEEP_DIR --runs 20 --items 2000   # its rows again and again, screenshots of their own
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the browser of the tests

from vlm_eval.store import RunFolder, read_json, write_json  # noqa: E402


def multiplied(source: Path, target: Path, runs: int, items: int) -> Path:
    """`runs` copies of the sweep's VQA runs with `items` items each; every item has a screenshot file of its own."""
    sweep = read_json(source / "sweep.json")
    old = [RunFolder(source / p["folder"]) for p in sweep["points"] if p["folder"].count("-vqa-")]
    root, points, pictures = target / "data", [], {}
    (root / "images").mkdir(parents=True)
    for number in range(runs):
        run = old[number % len(old)]
        new = RunFolder(target / f"run{number}")
        shutil.copytree(run.path / ".hydra", new.path / ".hydra")
        new.provenance(**{**run.provenance(), "data_root": str(root)})
        write_json(new.path / "summary.json", run.summary())
        there = run.read("items")
        for kind in ("items", "answers", "latency", "scores", "judgements"):
            by_item: dict[str, list] = {}
            for row in run.read(kind):
                by_item.setdefault(row.item_id, []).append(row)
            rows = []
            for copy in range(items):
                item = there[copy % len(there)]
                for row in by_item.get(item.item_id, []):
                    changed = {"item_id": f"{copy}-{item.item_id}"}
                    if kind == "items":
                        name = f"images/{copy}.png"
                        pictures[name] = Path(run.provenance()["data_root"]) / item.image
                        changed |= {"image": name, "cluster": name}
                    if kind == "answers":
                        changed["cluster"] = f"images/{copy}.png"
                    rows.append(dataclasses.replace(row, **changed))
            new.replace(kind, rows)
        new.set_status("ok")
        points.append({"folder": new.path.name, "overrides": [f"quant=run{number}"]})
    for name, picture in pictures.items():
        shutil.copy(picture, root / name)
    write_json(target / "sweep.json", {**sweep, "points": points})
    return target


def opened(page_file: Path) -> dict[str, float]:
    """Seconds in Chromium: until the items are there, until a search left few, until the answers of one are there."""
    from tests.mlflow_page import chromium

    with chromium() as browser:
        page, began = browser.new_page(), time.monotonic()
        page.goto(page_file.as_uri())
        page.locator("#items .tabulator-row").first.wait_for()
        there = time.monotonic()
        before = page.locator("#count").inner_text()
        page.fill("[name=search]", page.locator("button.open").first.inner_text())
        page.wait_for_function("before => document.getElementById('count').textContent !== before", arg=before)
        searched = time.monotonic()
        page.locator("button.open").first.click()
        page.locator(".answer").first.wait_for()
        seconds = (there - began, searched - there, time.monotonic() - searched)
        return dict(zip(("page_s", "search_s", "item_s"), (round(s, 2) for s in seconds), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--items", type=int, default=2000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = asked.sweep_dir
        if asked.runs:
            sweep = multiplied(asked.sweep_dir, Path(folder) / "sweep", asked.runs, asked.items)
        out = Path(folder) / "report"
        baseline = ["--baseline", "quant=run0"] if asked.runs else []
        command = [sys.executable, "-m", "vlm_eval.report.cli", str(sweep), "--out", str(out), *baseline]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        sizes = {p.name: round(p.stat().st_size / 2**20, 2) for p in sorted(out.iterdir()) if p.is_file()}
        found = {"seconds": said.rpartition("(")[2].rstrip(" s)\n"), "peak_gib": round(peak, 2), "mib": sizes}
        print(json.dumps(found | opened(out / "index.html")))


if __name__ == "__main__":
    main()
