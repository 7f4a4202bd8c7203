"""Where references come from: the data set's own table, or the answers of another run (`reference.run`)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf

from vlm_eval.config import ReferenceConfig
from vlm_eval.engines import recorded
from vlm_eval.errors import BadInput
from vlm_eval.rows import Answer, Item
from vlm_eval.store import RunFolder
from vlm_eval.tasks.base import Task


def read_items(cfg: DictConfig, task: Task) -> tuple[list[Item], dict[str, Any]]:
    """The task's items with the references that the config asks for, and what provenance.json says of these."""
    items, config = task.items(), OmegaConf.to_object(cfg.reference)
    if config.run is None:
        given = next((name for name in ("candidate", "repeat") if getattr(config, name) is not None), None)
        if given:
            raise BadInput(f"reference.{given}: of which run? It needs reference.run")
        return items, {}
    folder, was = _run_of(config, task)
    replaced = _with_answers(config, folder, items)
    texts = {item.item_id: item.reference for item in replaced}
    if not any(texts.values()):
        why = next((item.no_reference for item in replaced if item.no_reference), "no item can be asked")
        raise BadInput(f"reference.run={config.run}: not one item gets a reference; the first: {why}")
    return replaced, {
        "reference_from": config.run if recorded.is_mlflow(config.run) else str(folder.path.resolve()),
        "reference_by": f"{was.model.name}, {was.quant.name}",
        "reference_sha256": hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest(),
    }


def without_reference(items: list[Item]) -> Optional[str]:
    """A sentence for people where reference.run has no answer for some of the items."""
    without = [item for item in items if item.no_reference]
    if not without:
        return None
    return f"{len(without)} of {len(items)} items have no reference; {without[0].item_id}: {without[0].no_reference}"


def _run_of(config: ReferenceConfig, task: Task) -> tuple[RunFolder, DictConfig]:
    """The folder of the run that gives the references, and its config."""
    folder = recorded.run_folder(config.run, config.candidate, config.tracking_uri, "reference.run")
    if folder is None:
        raise BadInput(f"reference.run={config.run}: no run folder, sweep folder or MLflow run id")
    was = recorded.recorded_config(folder)
    if was.task.name != task.config.name:
        raise BadInput(f"reference.run={config.run}: answers of task={was.task.name}; this is task={task.config.name}")
    if not folder.read("answers"):
        raise BadInput(f"reference.run={config.run}: nothing was answered in {folder.path}")
    return folder, was


def _with_answers(config: ReferenceConfig, folder: RunFolder, items: list[Item]) -> list[Item]:
    there = {item.item_id: item for item in folder.read("items")}
    answers: dict[str, list[Answer]] = {}
    for answer in sorted(folder.read("answers"), key=lambda answer: answer.repeat):
        if config.repeat in (None, answer.repeat):
            answers.setdefault(answer.item_id, []).append(answer)

    def replaced(item: Item) -> Item:
        if item.error:  # nobody is asked about it
            return item
        where, old = f"reference.run={config.run}: item {item.item_id}", there.get(item.item_id)
        if old is None:
            raise BadInput(f"{where} is not in that run; give one over the same data")
        if old.image_sha256 and old.image_sha256 != item.image_sha256:
            raise BadInput(f"{where} was answered about another picture than {item.image}")
        if (old.question or "").split() != (item.question or "").split():
            raise BadInput(f"{where} was answered to another question than {item.question!r}")
        if item.item_id not in answers:
            of = "" if config.repeat is None else f" to repeat {config.repeat}"
            raise BadInput(f"{where} has no answer{of} in that run; is it finished?")
        return _with_answer(item, answers[item.item_id])

    return [replaced(item) for item in items]


def _with_answer(item: Item, answers: list[Answer]) -> Item:
    text = next((a.text for a in answers if a.text is not None), None)
    why = None if text is not None else f"the run that gives the references has none: {answers[0].error}"
    return replace(item, reference=text, no_reference=why)
