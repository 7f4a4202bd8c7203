"""The descriptions that training screens are drawn from: whole, repeatable, and split without overlap."""

import random
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "make_demo_screens"))
import describe
import draw

KINDS = [pytest.param(kind, id=kind["kind"]) for kind in describe.kinds()]
FONTS = Path("/usr/share/fonts")


def test_there_are_24_kinds_of_both_houses():
    assert len({kind["kind"] for kind in describe.kinds()}) == len(KINDS) >= 24
    assert {kind["brand"] for kind in describe.kinds()} == {"bank", "shop"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_carries_the_facts_and_every_wording_has_one_split(kind):
    for split in describe.SPLITS:
        for text in kind["requests"][split]:
            assert {"problem", *kind["facts"]} <= set(re.findall(r"{(\w+)}", text)), text
    for texts in (kind["requests"], kind["explain"]):
        every = [text for split in describe.SPLITS for text in texts[split]]
        assert len(every) == len(set(every))
        assert all(re.search(r"[.?!]$", text) for text in every)  # an unquoted comma would have cut it


NAMES = [name for name in describe.texts("questions.yaml") if name != "common"]


@pytest.mark.parametrize("name", NAMES)
def test_questions_and_answers_have_one_split(name):
    asked = [text for split in describe.SPLITS for text in describe.wordings(name, split)]
    answered = describe.texts("questions.yaml")[name]["answer"]
    answers = [text for split in describe.SPLITS for text in answered[split]]
    assert len(asked) == len(set(asked)) >= 4 and len(answers) == len(set(answers)) >= 4
    assert not [text for text in asked if "{" in text]
    assert all(f"{{{name}}}" in text for text in answers)


def test_no_question_is_about_two_values():
    asked = [text for name in NAMES for split in describe.SPLITS for text in describe.wordings(name, split)]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", describe.DEVICES)
def test_facts_are_on_the_screen_and_in_the_request(kind, device):
    for seed in range(20):
        screen = describe.describe(random.Random(seed), "test", kind, device)
        shown = str(screen.description)
        assert [fact for fact in screen.facts if fact not in shown or fact not in screen.request] == []
        assert len(screen.questions) >= 2
        for one in screen.questions:
            assert one["facts"] and all(fact in one["answer"] and fact in shown for fact in one["facts"])


def test_a_seed_fixes_the_screen_and_splits_share_no_values():
    drawn = {s: [describe.describe(random.Random(seed), s) for seed in range(200)] for s in describe.SPLITS}
    assert drawn["test"] == [describe.describe(random.Random(seed), "test") for seed in range(200)]
    values = {split: {tuple(sorted(screen.values.items())) for screen in drawn[split]} for split in drawn}
    assert not values["train"] & values["test"] and not values["train"] & values["val"]
    assert not values["val"] & values["test"]


def test_without_fonts_it_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match="none of Inter-Regular"):
        draw.families(tmp_path)


@pytest.mark.needs("roboto")
@pytest.mark.parametrize("device", describe.DEVICES)
def test_pillow_draws_every_layout_and_knows_its_characters(device):
    fonts = draw.families(FONTS)
    for seed in range(30):
        screen = describe.describe(random.Random(seed), "train", device=device)
        image, pen = draw.draw(screen.description, fonts, random.Random(seed))
        assert image.size == draw.SIZES[device]
        held = draw.cells(pen, image.size)
        assert all(0 <= row < image.size[1] // 14 and 0 <= column < image.size[0] // 7 for row, column in held)
        written = " ".join(text for _, _, text, _ in pen.written)
        assert screen.values["problem"].split()[0] in written and len(held) > 60
