"""Draw a described screen with Pillow, fast and never twice alike: 3 ms a screen, for training.

It follows the browser's templates loosely (fonts, sizes, colours, spacing and corners vary), and keeps what was
written where, so that a training step can say which character each cell of the picture holds.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import describe
from PIL import Image, ImageDraw, ImageFont

SIZES = {"phone": (336, 728), "desktop": (560, 420)}  # pixels; the browser's CSS pixels
CELL = (14, 7)  # height, width: half a patch of 14 x 14
ACCENTS = ((14, 124, 134), (232, 79, 48), (33, 90, 220), (20, 130, 90), (120, 60, 190), (200, 100, 0), (60, 70, 90))
TONES = {"bad": (214, 57, 47), "warn": (214, 130, 10), "good": (30, 145, 86)}
FAMILIES = (
    ("Inter-Regular", "Inter-Bold"),
    ("Inter-Regular", "Inter-SemiBold"),
    ("Roboto-Regular", "Roboto-Bold"),
    ("Roboto-Regular", "Roboto-Medium"),
    ("RobotoCondensed-Regular", "RobotoCondensed-Bold"),
    ("DejaVuSans", "DejaVuSans-Bold"),
)


@cache
def font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


@cache
def advance(face: ImageFont.FreeTypeFont, letter: str) -> float:
    return face.getlength(letter)


def families(folder: Path) -> list[tuple[str, str]]:
    """(regular, bold) files of the FAMILIES found in the folder and below it; FileNotFoundError where there is none."""
    files = {file.stem: str(file) for file in sorted(folder.rglob("*.[ot]tf"))}
    found = [(files[regular], files[bold]) for regular, bold in FAMILIES if regular in files and bold in files]
    if not found:
        raise FileNotFoundError(f"{folder}: none of {', '.join(regular for regular, _ in FAMILIES)}")
    return found


class Pen(ImageDraw.ImageDraw):
    """Keeps what was written where; `hide` forgets what a later shape covers."""

    def __init__(self, image: Image.Image):
        super().__init__(image)
        self.written: list[tuple[float, float, str, ImageFont.FreeTypeFont]] = []

    def write(self, x: float, y: float, text: str, face, fill) -> None:
        self.written.append((x, y, text, face))
        self.text((x, y), text, font=face, fill=fill)

    def hide(self, below: float) -> None:
        self.written = [one for one in self.written if one[1] + one[3].size < below]


def cells(pen: Pen, size: tuple[int, int]) -> dict[tuple[int, int], str]:
    """{(row, column): character} for each cell of CELL pixels that holds the middle of one."""
    columns, rows = size[0] // CELL[1], size[1] // CELL[0]
    held = {}
    for x, y, text, face in pen.written:
        row = int((y + face.size * 0.68) // CELL[0])
        if not 0 <= row < rows:
            continue
        for letter in text:
            width = advance(face, letter)
            column = int((x + width / 2) // CELL[1])
            if letter not in " \N{NO-BREAK SPACE}" and 0 <= column < columns:
                held[row, column] = letter
            x += width
    return held


class Artist:
    """One screen's look, drawn by chance, and its blocks one below the other."""

    def __init__(self, description: dict, fonts: list[tuple[str, str]], rng: random.Random):
        self.what, self.rng, self.size = description, rng, SIZES[description["device"]]
        self.house = describe.texts("brands.yaml")[description["brand"]]
        self.regular, self.bold = rng.choice(fonts)
        self.dark = description["theme"] == "dark"
        low, high = (8, 34) if self.dark else (236, 255)
        base = rng.randint(low, high - 6)
        self.ground = tuple(min(255, base + rng.randint(0, 8)) for _ in range(3))
        self.card = tuple(min(255, part + rng.randint(8, 18)) for part in self.ground) if self.dark else (255,) * 3
        self.ink = tuple(rng.randint(222, 255) if self.dark else rng.randint(0, 45) for _ in range(3))
        self.soft = tuple(rng.randint(135, 185) if self.dark else rng.randint(85, 135) for _ in range(3))
        self.main = rng.choice(ACCENTS)
        self.round = rng.randint(4, 20)
        self.bigger = rng.choice((0, 0, 0, 1))
        self.image = Image.new("RGB", self.size, self.ground)
        self.pen = Pen(self.image)
        self.left, self.right, self.y = 16, self.size[0] - 16, 0.0
        self.on_card = self.card

    def face(self, size: int, bold: bool = False):
        return font(self.bold if bold else self.regular, size + self.bigger)

    def write(self, text: str, face, fill, *, at: str = "left", left=None, right=None) -> None:
        left, right = left if left is not None else self.left, right if right is not None else self.right
        width = face.getlength(text)
        x = {"left": left, "right": right - width, "centre": (left + right - width) / 2}[at]
        self.pen.write(int(x), int(self.y), text, face, fill)

    def paragraph(self, text: str, face, fill, *, at="left", left=None, right=None, step=None) -> None:
        left, right = left if left is not None else self.left, right if right is not None else self.right
        for line in wrap(text, face, right - left):
            self.write(line, face, fill, at=at, left=left, right=right)
            self.y += step or face.size * 1.35

    def disc(self, radius: int, tone: str, middle: float) -> None:
        colour = TONES.get(tone, self.main)
        self.pen.ellipse((middle - radius, self.y, middle + radius, self.y + 2 * radius), fill=colour)
        centre, arm = self.y + radius, radius * 0.35
        if self.rng.random() < 0.5:
            self.pen.line((middle - arm, centre - arm, middle + arm, centre + arm), fill="white", width=3)
            self.pen.line((middle + arm, centre - arm, middle - arm, centre + arm), fill="white", width=3)
        else:
            self.pen.line((middle, centre - radius * 0.5, middle, centre + radius * 0.1), fill="white", width=3)
            self.pen.ellipse((middle - 2, centre + radius * 0.35, middle + 2, centre + radius * 0.35 + 4), fill="white")

    # ---- blocks of the templates ----
    def hero(self, c: dict) -> None:
        self.y += self.rng.randint(4, 20)
        at = "centre" if self.rng.random() < 0.85 else "left"
        if self.rng.random() < 0.85:
            radius = self.rng.randint(18, 40) if self.what["device"] == "phone" else self.rng.randint(14, 24)
            self.disc(radius, c["tone"], (self.left + self.right) / 2 if at == "centre" else self.left + radius)
            self.y += 2 * radius + self.rng.randint(6, 14)
        parts = ["amount", "title"] if self.rng.random() < 0.6 else ["title", "amount"]
        for part in parts:
            if part == "title":
                self.paragraph(c["title"], self.face(self.rng.randint(18, 21), True), self.ink, at=at)
                self.y += self.rng.randint(4, 9)
            elif c.get("amount"):
                self.write(c["amount"], face := self.face(self.rng.randint(24, 34), True), self.ink, at=at)
                self.y += face.size * 1.3
        self.paragraph(c["text"], self.face(self.rng.choice((14, 15, 15))), self.soft, at=at)
        self.y += self.rng.randint(6, 18)

    def banner(self, c: dict) -> None:
        tone = TONES.get(c["tone"], self.main)
        mix = 0.2 if self.dark else 0.12
        fill = tuple(int(a * (1 - mix) + b * mix) for a, b in zip(self.ground, tone, strict=True))
        title, text = self.face(15, True), self.face(14)
        icon = self.rng.random() < 0.7
        left, right, top = self.left + (44 if icon else 14), self.right - 12, self.y
        lines = (
            len(wrap(c["title"], title, right - left)) * title.size
            + len(wrap(c["text"], text, right - left)) * text.size
        )
        self.pen.rounded_rectangle((self.left, top, self.right, top + lines * 1.35 + 28), self.round, fill=fill)
        self.y += 12
        if icon:
            middle, self.y = self.left + 24, self.y + 2
            self.disc(10, c["tone"], middle)
            self.y -= 2
        self.paragraph(c["title"], title, self.ink if self.rng.random() < 0.7 else tone, left=left, right=right)
        self.y += 3
        self.paragraph(c["text"], text, self.ink if self.rng.random() < 0.6 else self.soft, left=left, right=right)
        self.y = top + lines * 1.35 + 28 + self.rng.randint(8, 16)

    def rows(self, c: list) -> None:
        side = self.rng.random() < 0.75
        label, value = self.face(self.rng.choice((14, 15, 15))), self.face(15, self.rng.random() < 0.5)
        small, room = self.face(13), self.right - self.left - 28
        apart = [not side or label.getlength(row[0]) + value.getlength(row[1]) > room - 10 for row in c]
        step, tall = self.rng.randint(38, 46), self.rng.randint(48, 56)
        if self.what["device"] == "desktop":
            step, tall = 29 + self.rng.randint(0, 3), 42
        height = sum(tall if two else step for two in apart)
        self.pen.rounded_rectangle((self.left, self.y, self.right, self.y + height), self.round, fill=self.on_card)
        left, right = self.left + 14, self.right - 14
        for row, two in zip(c, apart, strict=True):
            top = self.y
            if two:
                self.y += 5
                self.write(row[0], small, self.soft, left=left)
                self.y += 19
                self.write(
                    row[1], value, self.ink, left=left, at="left" if self.rng.random() < 0.5 else "right", right=right
                )
            else:
                self.y += (step - 19) / 2
                self.write(row[0], label, self.soft, left=left)
                self.write(row[1], value, self.ink, right=right, at="right")
            self.y = top + (tall if two else step)
            if row is not c[-1]:
                self.pen.line((left, self.y, right, self.y), fill=self.ground)
        self.y += self.rng.randint(8, 18)

    def field(self, c: dict) -> None:
        self.pen.rounded_rectangle((self.left, self.y, self.right, self.y + 62), self.round, fill=self.on_card)
        self.y += 8
        self.write(c["label"], self.face(13), self.soft, left=self.left + 14)
        self.y += 18
        self.write(c["value"], self.face(self.rng.randint(20, 24), True), self.ink, left=self.left + 14)
        self.y += 36 + self.rng.randint(8, 14)

    def buttons(self, c: list) -> None:
        height = 48 if self.what["device"] == "phone" else 34
        beside = self.what["device"] == "desktop" and self.right - self.left > 400
        left, right, width = self.left, self.right, (self.right - self.left - 10) / 2
        for place, (label, kind) in enumerate(c):
            if beside:  # two in a row
                self.left, self.right = left + place * (width + 10), left + place * (width + 10) + width
            fill = (
                self.main
                if kind == "main"
                else tuple(int(a * 0.9 + b * 0.1) for a, b in zip(self.ground, self.main, strict=True))
            )
            self.pen.rounded_rectangle(
                (self.left, self.y, self.right, self.y + height), min(self.round, height // 2), fill=fill
            )
            top = self.y
            self.y += (height - 20) / 2
            self.write(
                label, self.face(16, self.rng.random() < 0.8), (255,) * 3 if kind == "main" else self.main, at="centre"
            )
            self.y = top if beside and place == 0 else top + height + self.rng.randint(6, 12)
        self.left, self.right = left, right

    def links(self, c: list) -> None:
        step = 42 if self.what["device"] == "phone" else 31
        if self.y + step * len(c) > self.size[1] - 24:
            return
        self.pen.rounded_rectangle((self.left, self.y, self.right, self.y + step * len(c)), self.round, fill=self.card)
        face = self.face(self.rng.choice((14, 15)))
        for label in c:
            top, self.y = self.y, self.y + (step - 19) / 2
            self.write(label, face, self.main if self.rng.random() < 0.4 else self.ink, left=self.left + 14)
            x, middle = self.right - 18, top + step / 2
            self.pen.line((x, middle - 5, x + 5, middle, x, middle + 5), fill=self.soft, width=2)
            self.y = top + step
        self.y += self.rng.randint(8, 16)

    def tabs(self, chosen: str) -> None:
        width, height = self.size
        top, tall = height - self.rng.randint(64, 78), self.rng.randint(18, 24)
        self.pen.rectangle((0, top, width, height), fill=self.card)
        labels, face = [label for _, label in self.house["tabs"]], self.face(11)
        for place, label in enumerate(labels):
            left, colour = width * place / len(labels), self.main if label == chosen else self.soft
            middle = left + width / len(labels) / 2
            self.pen.rounded_rectangle(
                (middle - tall / 2, top + 7, middle + tall / 2, top + 7 + tall), 6, outline=colour
            )
            self.y = top + 9 + tall
            self.write(label, face, colour, at="centre", left=left, right=left + width / len(labels))

    def columns(self, c: dict) -> None:
        left, right, top = self.left, self.right, self.y
        middle, bottom = (left + right) / 2 + self.rng.randint(-14, 14), top
        for part, (self.left, self.right) in zip(c["parts"], ((left, middle - 8), (middle + 8, right)), strict=True):
            self.y = top
            self.blocks(part)
            bottom = max(bottom, self.y)
        self.left, self.right, self.y = left, right, bottom

    def blocks(self, blocks: list[dict]) -> None:
        for block in blocks:
            for name, content in block.items():
                getattr(self, name)(content)

    # ---- frames ----
    def phone(self) -> None:
        width, height = self.size
        self.y = self.rng.randint(8, 16)
        self.write(self.what["time"], self.face(14, True), self.ink, left=self.rng.randint(18, 32))
        self.pen.rectangle((width - 52, self.y + 2, width - 28, self.y + 13), outline=self.soft)
        self.y += self.rng.randint(28, 38)
        self.write(
            self.what["title"],
            self.face(self.rng.randint(17, 20), True),
            self.ink,
            left=52,
            right=width - 52,
            at=self.rng.choice(("left", "centre")),
        )
        self.pen.line((30, self.y + 4, 22, self.y + 11, 30, self.y + 18), fill=self.ink, width=2)
        self.y += self.rng.randint(32, 42)
        self.blocks(self.what["body"])
        if footer := self.what.get("footer"):
            tall = sum(60 * len(block["buttons"]) for block in footer)
            self.y = max(self.y, height - tall - self.rng.randint(20, 40))
            self.blocks(footer)
        if tab := self.what.get("tab"):
            self.tabs(tab)
        if sheet := self.what.get("sheet"):
            self.pull_up(sheet)

    def pull_up(self, sheet: list[dict]) -> None:
        """A sheet over the lower part; what shows above it is darkened, what it covers is forgotten."""
        if self.y < (top := self.size[1] - self.rng.randint(330, 390)):
            top = self.rng.randint(int(self.y), top)
        shade = Image.new("RGB", self.size, (8, 16, 20))
        self.image.paste(Image.blend(self.image, shade, self.rng.uniform(0.3, 0.55)))
        self.pen.hide(top)
        self.pen.rounded_rectangle((0, top, self.size[0], self.size[1] + 40), self.rng.randint(14, 28), fill=self.card)
        self.y = top + self.rng.randint(16, 26)
        self.blocks(sheet)

    def desktop(self) -> None:
        width, height = self.size
        bar = tuple(int(part * 0.93) if not self.dark else part + 12 for part in self.ground)
        self.pen.rectangle((0, 0, width, 32), fill=bar)
        for place in range(3):
            self.pen.ellipse((12 + 16 * place, 12, 21 + 16 * place, 21), fill=ACCENTS[place])
        self.y = 8
        self.write(self.house["site"], self.face(13), self.soft, left=90)
        self.y = 42
        self.write(self.house["name"], self.face(15, True), self.main)
        self.write(self.what["title"], self.face(16, True), self.ink, at="right")
        self.y = self.rng.randint(72, 84)
        self.blocks(self.what["body"])


def wrap(text: str, face, width: float) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and face.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def draw(description: dict, fonts: list[tuple[str, str]], rng: random.Random) -> tuple[Image.Image, Pen]:
    artist = Artist(description, fonts, rng)
    getattr(artist, description["device"])()
    return artist.image, artist.pen
