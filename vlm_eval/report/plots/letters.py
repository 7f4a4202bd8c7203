"""Candidates' names as they can be drawn: in letters that the font has, in lines that fit."""

from __future__ import annotations

import re
from functools import cache
from typing import Sequence

from matplotlib import font_manager

FONT = "DejaVu Sans"  # comes with matplotlib, has Cyrillic
SMALL = 8  # points, the smallest letters of any plot
LINE_CM = 0.36  # height of a line of SMALL letters
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
POINT_CM = 2.54 / 72


def drawable(text: str) -> str:
    """One line of letters that the font has: another one, an emoji, would be a box and a warning."""
    known = _known()
    return "".join(letter if ord(letter) in known else UNKNOWN for letter in " ".join(text.split()))


@cache
def _known() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


def width_cm(line: str) -> float:
    """Of SMALL letters."""
    return sum(map(_letter_cm, line))


@cache
def _letter_cm(letter: str) -> float:
    font = font_manager.get_font(font_manager.findfont(FONT))
    font.set_size(SMALL, 72)
    return font.load_char(ord(letter)).linearHoriAdvance / 65536 * POINT_CM


def shortened(names: Sequence[str], width: float, lines: int) -> list[str]:
    """Each in at most `lines` lines of `width` cm, long ones without their middle; where two came out alike, all get
    their number."""
    short = ["\n".join(_fitted(drawable(name), width, lines)) for name in names]
    if len(set(short)) < len(short):
        numbered = (f"{number}: {drawable(name)}" for number, name in enumerate(names, 1))
        short = ["\n".join(_fitted(name, width, lines)) for name in numbered]
    return short


def _fitted(name: str, width: float, most: int) -> list[str]:
    lines = _wrapped(name, width) or ["–"]
    if len(lines) <= most:
        return lines
    if most == 1:
        head = _beginning(name, width / 2)
        return [head + _end("…", name[len(head) :], width - width_cm(head))]
    return [*lines[: most - 1], _end("…", name, width)]


def _wrapped(name: str, width: float) -> list[str]:
    """Broken after a blank, a dash, a slash or an underscore; within a word only where it alone is too long."""
    lines = [""]
    for word in re.findall(r".+?(?:[\s/_-]+|$)", name):
        if lines[-1] and width_cm((lines[-1] + word).rstrip()) > width:
            lines.append("")
        while width_cm((lines[-1] + word).rstrip()) > width:
            head = _beginning(word, width)
            lines[-1], word = head, word[len(head) :]
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines if line.strip()]


def _beginning(text: str, width: float) -> str:
    count = len(text)
    while count > 1 and width_cm(text[:count]) > width:
        count -= 1
    return text[:count]


def _end(before: str, text: str, width: float) -> str:
    start = 0
    while start < len(text) - 1 and width_cm(before + text[start:]) > width:
        start += 1
    return before + text[start:].lstrip()
