"""The judge stage of a run: as the run goes, and later, when it has long ended.

provenance.json keeps under `judges` who judged a run: {NAME: {"main", "names", "config", "facts", "source"}}. The main
one's numbers are `judge/*` in summary.json, those of any other `judge.NAME/*`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf

from vlm_eval import addresses, config
from vlm_eval.judges.base import Judge, JudgeRequest
from vlm_eval.progress import Reporter
from vlm_eval.provenance import inputs
from vlm_eval.rows import Item, Judgement
from vlm_eval.store import RunFolder, write_json

ASKED_AGAIN = ("error", "over_budget")
FAILED = (*ASKED_AGAIN, "invalid", "refused")


def judge_answers(
    cfg: DictConfig, items: dict[str, Item], root: Path, folder: RunFolder, report: Reporter, main: bool = True
) -> None:
    """Judgements that are not in the folder yet, and the judges' part of the summary; screenshots are below `root`.

    RuntimeError where more of them failed than judge.max_fail_rate allows; all is written by then.
    """
    chosen: Judge = config.build(cfg.judge)
    answers = folder.read("answers")
    report.ask_for_one_card("judge", [chosen.card_gib()])
    report("judge")
    # A judgement that failed is asked for again; the new one takes the place of the old.
    before = folder.read("judgements")
    names = {*chosen.names, *judges_of(folder).get(chosen.name, {}).get("names", ())}
    judge = addresses.of_judge(judge_inputs(cfg), chosen.facts())
    shown = {(a.item_id, a.repeat): addresses.of_judged(items[a.item_id], a) for a in answers}

    limit = OmegaConf.select(cfg, "judge.max_fail_rate")
    asked = [j for j in before if j.judge in names and j.status != "not_asked"]
    too_many = limit is not None and sum(j.status != "ok" for j in asked) > limit * len(asked)
    # With too many failures the judge itself was in trouble, and what it said amiss is no answer to stay with.
    again = FAILED if too_many else ASKED_AGAIN

    def stays(j: Judgement) -> bool:
        of_judge, _, of_judged = (j.inputs or "").partition("-")
        if not of_judged or of_judged != shown.get((j.item_id, j.repeat)):
            return False  # another answer, reference or picture: whoever judged it
        return j.judge not in names or not (chosen.remade or j.status in again or of_judge != judge)

    kept = [j for j in before if stays(j)]
    if len(kept) < len(before):
        folder.replace("judgements", kept)
    mine = [j for j in kept if j.judge in names]
    have: dict[tuple[str, int], set] = {}
    for j in mine:
        have.setdefault((j.item_id, j.repeat), set()).add((j.judge, j.order, j.judge_repeat))
    requests = [
        JudgeRequest(items[a.item_id], a, root / items[a.item_id].image, frozenset(have.get((a.item_id, a.repeat), ())))
        for a in answers
    ]
    entry = {"names": list(chosen.names), "config": judge_inputs(cfg), "facts": chosen.facts(), "source": chosen.source}
    _remember(folder, chosen.name, entry, main=False)  # it is the main judge when it has judged
    done, calls = len(mine), chosen.cost(len(answers))[0]
    for new in chosen.judge(requests, sum(j.cost_usd or 0.0 for j in before if j.judge in names)):
        folder.append(
            "judgements", [dataclasses.replace(j, inputs=f"{judge}-{shown[j.item_id, j.repeat]}") for j in new]
        )
        done += len(new)
        report("judge", done, calls)
    _remember(folder, chosen.name, entry, main)
    summarise_judges(folder)
    failed = folder.summary().get(f"{prefix_of(folder, chosen.name)}/fail_rate", 0.0)
    if limit is not None and failed > limit:
        from vlm_eval.judges.summary import failures

        raise RuntimeError(
            f"{failed:.0%}, over judge.max_fail_rate={limit:.0%}: {failures(judgements_of(folder, chosen.name))}"
        )


def judge_inputs(cfg: DictConfig) -> dict[str, Any]:
    """The judge's part of the config, without what only says how it is asked."""
    return {k.removeprefix("judge."): v for k, v in inputs(cfg).items() if k.startswith("judge.")}


def _remember(folder: RunFolder, name: str, entry: dict[str, Any], main: bool) -> None:
    if main:
        folder.provenance(judge=entry["facts"])
    if not entry["names"]:  # judge=none
        return
    judges = judges_of(folder)
    main = main or judges.get(name, {}).get("main", False)
    if main:
        judges = {other: {**known, "main": False} for other, known in judges.items()}
    folder.provenance(judges={**judges, name: {"main": main, **entry}})


def judges_of(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Who judged a run, by name."""
    return folder.provenance().get("judges", {})


def main_judge(folder: RunFolder) -> Optional[str]:
    """The name of a run's main judge; None where nobody judged it."""
    return next((name for name, entry in judges_of(folder).items() if entry["main"]), None)


def has_judged(folder: RunFolder, name: Optional[str]) -> bool:
    """Whether a judge has one ok judgement or more here."""
    return any(j.status == "ok" for j in judgements_of(folder, name))


def judge_facts(folder: RunFolder, name: Optional[str] = None) -> dict[str, str]:
    """What the scores of a judge, the main one or the one named, depend on; {} where it did not judge.

    Runs that differ in it are not comparable: who judged, with which model and prompt, in which orders, and whether it
    saw the screenshot ("yes", "no" or "partly", as its ok judgements have it).
    """
    judges, name = judges_of(folder), name or main_judge(folder)
    entry = judges.get(name)
    if entry is None and (name or judges):
        return {}
    # A run that was judged before provenance.json named its judges has the facts alone.
    made_of = folder.provenance().get("judge") or {} if entry is None else entry["facts"]
    found = {k.removeprefix("judge_"): v for k, v in config.flat(OmegaConf.create(made_of)).items()} if made_of else {}
    if entry is not None:
        found["names"] = ", ".join(sorted(entry["names"]))
        found |= {k: v for k, v in entry["config"].items() if k.rpartition(".")[2] in ("_target_", "order")}
        saw = {j.saw_image for j in judgements_of(folder, name) if j.status == "ok"}
        found["saw_image"] = "partly" if len(saw) > 1 else {True: "yes", False: "no"}.get(next(iter(saw), None))
    return {k: str(v) for k, v in found.items() if v is not None}


def prefix_of(folder: RunFolder, name: str) -> str:
    """What a judge's numbers begin with."""
    return "judge" if name == main_judge(folder) else f"judge.{name}"


def judgements_of(folder: RunFolder, name: Optional[str]) -> list[Judgement]:
    """The judgements of one judge or panel; [] for None and for a stranger."""
    names = judges_of(folder).get(name, {}).get("names", ())
    return [j for j in folder.read("judgements") if j.judge in names]


def summarise_judges(folder: RunFolder) -> None:
    """All judges' numbers in summary.json anew, those of their agreement with people too."""
    from vlm_eval.judges.agreement_with_people import named_agreement, side_by_side
    from vlm_eval.judges.people import PEOPLE
    from vlm_eval.judges.summary import summarise

    answers = folder.read("answers")
    summary = {k: v for k, v in folder.summary().items() if not k.startswith(("judge/", "judge."))}
    people = judgements_of(folder, PEOPLE)
    for name in judges_of(folder):
        prefix, mine = prefix_of(folder, name), judgements_of(folder, name)
        summary |= summarise(mine, answers, prefix)
        if name != PEOPLE:
            agreement = named_agreement(side_by_side(mine, people, answers))
            summary |= {f"{prefix}/{number}": value for number, value in agreement.items()}
    write_json(folder.path / "summary.json", summary)
