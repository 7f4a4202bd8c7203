"""hydra/launcher=local_gpus: real sweeps of a small engine on cards that are said to be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_eval import devices
from vlm_eval.errors import BadInput
from vlm_eval.scheduling.scheduler import Place
from vlm_eval.scheduling.side_by_side import places
from vlm_eval.store import RunFolder, read_json

from ..helpers import FAULTY, make_data


@pytest.fixture
def sweep(tmp_path, vlm_eval_cli, monkeypatch):
    """What the engines of a sweep did, a line each, with its exit code and its runs by their mode."""
    data, log = make_data(tmp_path / "data"), tmp_path / "log"
    monkeypatch.setenv("FAULTY_ENGINE_LOG", str(log))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = ["-m", *FAULTY, "judge=none", "metrics=tech", "tracking=none", "task=vqa", f"task.data.root={data}"]

    def run(*more: str):
        log.write_text("")
        ended = vlm_eval_cli(*command, *more)
        folders = [f for f in Path("multirun").glob("*/*") if (f / ".hydra").is_dir()]
        runs = {read_yaml(f)["engine"]["mode"]: RunFolder(f) for f in folders}
        return ended, log.read_text().splitlines(), runs

    return run


def read_yaml(folder: Path) -> dict:
    import yaml

    return yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())


def overlap(lines: list[str]) -> bool:
    """Whether a second engine started before the first stopped."""
    words = [line.split()[0] for line in lines]
    first_stop = words.index("stop")
    return words[:first_stop].count("start") == 2


TWO = ("engine.mode=ok,one_bad", "engine.delay_s=0.5", "engine.cards=1")
TWO_SLOW = (TWO[0], "engine.delay_s=2", TWO[2])  # the second process has that long to come, on a busy machine too


def test_engines_that_fit_one_card_work_at_the_same_time(sweep):
    ended, lines, runs = sweep(*TWO_SLOW, "engine.gib=30", "hydra.launcher.cards=[80]")
    assert ended.code == 0 and ended.out.splitlines()[-1] == "2 of 2 runs ok"
    assert overlap(lines)
    assert {line for line in lines if line.startswith("cards")} == {"cards ok 0 30.0", "cards one_bad 0 30.0"}
    assert all(len(run.read("answers")) == len(run.read("scores")) == 3 for run in runs.values())


@pytest.mark.parametrize("more", [("engine.gib=50",), ("engine.gib=null",), ("engine.gib=30", "sweep.prefetch=0")])
def test_engines_that_do_not_fit_work_one_after_the_other(sweep, more):
    ended, lines, _ = sweep(*TWO, *more, "hydra.launcher.cards=[80]")
    assert ended.code == 0 and not overlap(lines)


def test_each_engine_sees_its_own_card(sweep):
    ended, lines, _ = sweep(*TWO_SLOW, "engine.gib=50", "hydra.launcher.cards=[80,80]")
    assert ended.code == 0 and overlap(lines)
    assert sorted(line.split()[2] for line in lines if line.startswith("cards")) == ["0", "1"]


def test_one_engine_on_two_cards(sweep):
    ended, lines, _ = sweep("engine.mode=ok", "engine.cards=2", "engine.gib=50", "hydra.launcher.cards=[80,80]")
    assert ended.code == 0 and "cards ok 0,1 None" in lines


def test_more_cards_than_there_are_fail_that_run_alone(sweep):
    ended, _, runs = sweep("engine.mode=ok", "engine.cards=0,2", "engine.gib=50", "hydra.launcher.cards=[80]")
    assert ended.code == 1 and "1 of 2 runs ok, 1 failed" in ended.out
    states = [read_json(file) for file in Path("multirun").glob("*/*/status.json")]
    [failed] = [state for state in states if state["state"] == "failed"]
    assert "asks for 2 cards, 1 are here" in failed["error"]


def test_an_estimate_that_was_too_low_is_tried_again_with_a_card_to_itself(sweep):
    ended, lines, runs = sweep("engine.mode=oom,ok", "engine.cards=1", "engine.gib=30", "hydra.launcher.cards=[80]")
    assert ended.code == 0
    shares = [line for line in lines if line.startswith("cards oom")]
    assert shares == ["cards oom 0 30.0", "cards oom 0 None"]
    [again] = runs["oom"].provenance()["engine_restarts"]
    assert "out of memory" in again["error"] and again["then"] == "tried again with a card to itself"
    assert "tried again with a card to itself" in ended.err
    assert len(runs["oom"].read("answers")) == 3


def test_out_of_memory_with_a_card_to_itself_is_the_end(sweep):
    ended, lines, runs = sweep("engine.mode=oom", "engine.cards=1", "engine.gib=100", "hydra.launcher.cards=[80]")
    assert ended.code == 0  # it had the whole card, and no share that would be too small
    assert [line for line in lines if line.startswith("cards")] == ["cards oom 0 None"]


def test_a_next_run_is_prepared_while_one_works(sweep):
    """On a CPU: the second has read its items by the time that the first has its answers, and starts after it."""
    ended, lines, runs = sweep("engine.mode=ok,one_bad", "engine.delay_s=0.7")
    assert ended.code == 0 and not overlap(lines)
    stages = [line for line in ended.err.splitlines() if "]" in line]
    items = next(n for n, line in enumerate(stages) if line.startswith("[2/2]") and "items" in line)
    generated = next(n for n, line in enumerate(stages) if line.startswith("[1/2]") and "generate" in line)
    assert items < generated


@pytest.mark.parametrize("option", ["sweep.prefetch=abc", "hydra.launcher.scoring=x", "hydra.launcher.cards=80",
                                    "hydra.launcher.cards=[a]"])  # fmt: skip
def test_a_launcher_s_option_of_another_type_is_one_line(sweep, option):
    ended, _, _ = sweep("engine.mode=ok", option)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1 and option.partition("=")[0] in ended.err


def test_no_visible_card_is_said_before_anything_starts(sweep):
    ended, lines, _ = sweep("engine.mode=ok", "hydra.launcher.cards=[]")
    assert ended.code == 2 and "no card to run on" in ended.err and lines == [] and ended.out == ""
    assert not Path("multirun").exists()


def test_why_a_run_could_not_begin_is_said(sweep, monkeypatch):
    def refused(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("vlm_eval.scheduling.side_by_side._forks", refused)
    ended, _, _ = sweep("engine.mode=ok,one_bad")
    assert ended.code == 1 and "Too many open files" in ended.err and "2 not begun" in ended.out


SMI = """#!/bin/sh
case "$*" in
  *index,uuid,memory.free*) printf '0, GPU-a, 81000, 81559\\n1, GPU-b, 81000, 81559\\n' ;;
  "-i 1") echo "Unable to determine the device handle: GPU is lost"; exit 15 ;;
  *memory.free*) echo 81000 ;;
  *memory.total*) echo "NVIDIA H100 80GB HBM3, 81559" ;;
esac
"""


@pytest.mark.parametrize("retries, failed", [(0, 1), (1, 0)])
def test_a_card_that_is_lost_takes_one_engine_with_it(sweep, nvidia_smi, retries, failed):
    nvidia_smi(SMI)
    on_cards = ("engine.mode=lost_card", "engine.cards=1", "engine.gib=70", "engine.delay_s=1", "run.seed=0,1,2,3")
    ended, lines, _ = sweep(*on_cards, f"engine.retries={retries}")
    assert ended.code == failed and f"{4 - failed} of 4 runs ok" in ended.out, ended.err
    assert "vlm-eval: card 1 does not answer" in ended.err
    assert [line.split()[2] for line in lines if line.startswith("cards")].count("1") == 1


def test_a_dead_engine_s_card_is_asked_for_while_it_is_still_held(sweep, monkeypatch):
    """Given back first, it would be the next run's before it was known to be lost."""
    seen = []
    for name in ("engine_died", "pause"):
        real = getattr(Place, name)
        monkeypatch.setattr(Place, name, lambda place, name=name, real=real: (seen.append(name), real(place)))
    assert sweep("engine.mode=raise", "engine.cards=1", "hydra.launcher.cards=[80]")[0].code == 1
    assert seen == ["engine_died", "pause"]


def test_sizes_are_of_the_cards_that_are_visible(monkeypatch):
    monkeypatch.setattr(devices, "find_device", lambda: devices.Device("cuda", "card", 80))
    monkeypatch.setattr(devices, "cards", lambda: [devices.Card("2", 79, 80), devices.Card("3", 60, 80)])
    found = [places(sizes, 1, 1).cards for sizes in (None, [40, 50], [40])]
    assert [[(card.name, card.gib) for card in cards] for cards in found] == [
        [("2", 79), ("3", 60)],
        [("2", 40), ("3", 50)],
        [("2", 40)],
    ]
    assert [card.is_free for card in places(None, 1, 1).cards] == [True, False]
    assert not places([40], 1, 1).cards[0].is_free  # a run that has it whole has 40 GiB of it
    with pytest.raises(BadInput, match="2 cards are here"):
        places([1, 2, 3], 1, 1)
