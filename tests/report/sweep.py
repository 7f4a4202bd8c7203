"""A finished sweep's folder, without an engine: what a report is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from omegaconf import OmegaConf
from PIL import Image

from tests.helpers import composed
from vlm_eval.judging import summarise_judges
from vlm_eval.rows import Answer, Item, Judgement, Score
from vlm_eval.statistics.intervals import named_mean
from vlm_eval.store import RunFolder, sha256_of, write_json

DEVICES = ("phone", "desktop")


def make_sweep(
    folder: Path,
    quants: Sequence[str] = ("gptq4", "bf16"),
    tasks: Sequence[str] = ("vqa",),
    items: int = 6,
    judged: bool = True,
    failed: Sequence[str] = (),
    texts: Optional[dict[str, str]] = None,
) -> Path:
    """`quants` x `tasks` over `items` screenshots. bf16 scores 9, every other 8 (and 4 on the first item) of 10; the
    quants in `failed` failed; `texts`: item_id -> what all answer to it."""
    pictures = folder / "data" / "images"
    pictures.mkdir(parents=True)
    for number in range(items):
        Image.new("RGB", (60, 90), (number % 256, 90, 120)).save(pictures / f"{number}.png")
    points = []
    for task in tasks:
        for quant in quants:
            name, overrides = f"demo-{quant}-{task}", [f"quant={quant}", f"task={task}"]
            points.append({"folder": name, "overrides": overrides})
            _run(
                RunFolder(folder / name), overrides, folder / "data", items, quant, judged, quant in failed, texts or {}
            )
    sweep = {"sweep_id": folder.name, "command": "vlm-eval -m quant=gptq4,bf16", "cwd": str(folder), "points": points}
    sweep |= {"started": "2026-11-24T12:00:00+00:00", "ended": None, "statistics": {}, "failed": len(failed)}
    write_json(folder / "sweep.json", sweep | {"mlflow_run_id": None})
    return folder


def _run(
    run: RunFolder,
    overrides: list[str],
    root: Path,
    count: int,
    quant: str,
    judged: bool,
    failed: bool,
    texts: dict[str, str],
) -> None:
    (run.path / ".hydra").mkdir(parents=True)
    OmegaConf.save(composed(*overrides), run.path / ".hydra" / "config.yaml")
    run.provenance(data_root=str(root))
    items = [
        Item(
            f"item/{n}",
            f"{n}.png",
            f"images/{n}.png",
            f"Что на экране {n}?",
            "Чат",
            device=DEVICES[n % 2],
            image_sha256=sha256_of(root / "images" / f"{n}.png"),
        )
        for n in range(count)
    ]
    run.replace("items", items)
    if failed:
        run.set_status("failed", "generate", "out of <memory>")
        return
    answers = [Answer(i.item_id, 0, i.cluster, texts.get(i.item_id, f"Ответ {quant}"), "stop", 9, 5) for i in items]
    run.append("answers", answers)
    recall = [Score(i.item_id, 0, {"facts_recall": 0.5}) for i in items]
    run.replace("scores", recall)
    weights = {"bf16": 14.0}.get(quant, 6.0)
    summary = {"tech/weights_gib": weights} | named_mean("facts/recall_mean", [(i.cluster, 0.5) for i in items])
    write_json(run.path / "summary.json", summary)
    if judged:
        run.append("judgements", [j for n, i in enumerate(items) for j in _judgements(i, n, quant)])
        entry = {"main": True, "names": ["stern"], "config": {}, "facts": {"judge_model": "stern"}}
        run.provenance(judges={"stern": entry})
        summarise_judges(run)
    run.set_status("ok")


def _judgements(item: Item, number: int, quant: str) -> list[Judgement]:
    score = 9.0 if quant == "bf16" else 4.0 if number == 0 else 8.0
    return [
        Judgement(item.item_id, 0, "stern", order, 0, True, score, 10.0, f"потому что {order} <b>{quant}</b>", "ok")
        for order in ("ab", "ba")
    ]
