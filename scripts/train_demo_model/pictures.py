"""Training pictures with their rows of tokens, drawn while training runs: nothing is stored, no screen comes twice."""

from __future__ import annotations

import random
from pathlib import Path

import describe
import draw
import numpy as np
import torch
from chat import Chat, Row, system_prompts
from PIL import Image

LETTERS = (
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюяАБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ0123456789.,:;!?-–—«»()[]•№₽%+*/'\"·@−"
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
CLASSES = {letter: place for place, letter in enumerate(sorted(LETTERS), start=1)}  # 0: no character here
STRIP = (336, 196)
READ_STRIP = "Прочитайте текст."
LENGTH = {"strips": 264, "screens": 640}  # tokens of a row
ROWS = {"strips": 1, "screens": 2}  # of a picture: a screen is annotated and asked about


class Pictures(torch.utils.data.IterableDataset):
    """Endless batches, each of one size: pictures (B, H, W, 3), characters (B, patches, 2), and B * ROWS rows."""

    def __init__(self, stage: str, seed: str, batch: int, chat: Chat, fonts: Path):
        self.stage, self.seed, self.batch, self.chat, self.fonts = stage, seed, batch, chat, fonts

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        torch.set_num_threads(1)
        rng = random.Random(f"{self.seed} {worker.id if worker else 0}")
        fonts = draw.families(self.fonts)
        while True:
            device = rng.choices(describe.DEVICES, (3, 1))[0]
            make = self.strip if self.stage == "strips" else self.screen
            yield collate([make(rng, fonts, device) for _ in range(self.batch)])

    def strip(self, rng, fonts, device):
        image, pen, text = strip(rng, fonts)
        grid = (STRIP[1] // 28, STRIP[0] // 28)
        return (
            np.asarray(image),
            characters(pen, STRIP),
            [self.chat.row("", [(READ_STRIP, text)], grid, LENGTH["strips"])],
        )

    def screen(self, rng, fonts, device):
        screen = describe.describe(rng, "train", device=device)
        image, pen = draw.draw(screen.description, fonts, rng)
        turns = [(one["question"], one["answer"]) for one in screen.questions]
        rows = [
            self.chat.row(system_prompts()[task], said, grid_of(device), LENGTH["screens"])
            for task, said in (("screen_annotation", [("", screen.request)]), ("vqa", turns))
        ]
        return np.asarray(image), characters(pen, draw.SIZES[device]), rows


def grid_of(device: str) -> tuple[int, int]:
    width, height = draw.SIZES[device]
    return height // 28, width // 28


def strip(rng: random.Random, fonts):
    """A few lines anywhere on a plain ground, to learn letters from."""
    dark = rng.random() < 0.35
    image = Image.new("RGB", STRIP, tuple(rng.randint(8, 36) if dark else rng.randint(232, 255) for _ in range(3)))
    pen, y, lines = draw.Pen(image), rng.randint(4, 20), []
    pair, screen = rng.choice(fonts), describe.describe(rng, "train")
    said = [screen.request, *(one["question"] for one in screen.questions)]
    texts = [*screen.values.values(), *(few for text in said for few in few_words(text, rng))]
    for _ in range(rng.randint(1, 6)):
        text = rng.choice(texts)
        face = draw.font(rng.choice(pair), rng.choice((13, 14, 15, 15, 16, 17, 18, 20, 24, 28)))
        width = face.getlength(text)
        if y + face.size > STRIP[1] - 4:
            break
        if width > STRIP[0] - 8:
            continue
        ink = tuple(rng.randint(170, 255) if dark else rng.randint(0, 125) for _ in range(3))
        pen.write(rng.randint(4, int(STRIP[0] - 4 - width)), y, text, face, ink)
        y += int(face.size * 1.3) + rng.randint(0, 24)
        lines.append(text)
    return image, pen, "\n".join(lines)


def few_words(text: str, rng: random.Random) -> list[str]:
    words, out = text.split(), []
    while words:
        n = rng.randint(1, 4)
        out.append(" ".join(words[:n]))
        words = words[n:]
    return out


def characters(pen: draw.Pen, size: tuple[int, int]) -> np.ndarray:
    """(patches, 2) uint8: the class of the character in each half patch, in the order the model sees patches."""
    rows, columns = size[1] // 28, size[0] // 28
    held = np.zeros((rows * 2, columns * 4), np.uint8)
    for (row, column), letter in draw.cells(pen, size).items():
        held[row, column] = CLASSES.get(letter, 0)
    return held.reshape(rows, 2, columns, 2, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)


def collate(samples):
    pictures, held, rows = zip(*samples, strict=True)
    return (
        torch.from_numpy(np.stack(pictures)),
        torch.from_numpy(np.stack(held)),
        *as_tensors([row for group in rows for row in group]),
    )


def as_tensors(rows: list[Row]):
    """tokens (B, L), places (B, L), positions (3, B, L), answered (B, L)."""
    return (
        torch.tensor([row.tokens for row in rows]),
        torch.from_numpy(np.stack([row.places for row in rows])),
        torch.from_numpy(np.stack([row.positions for row in rows], 1)),
        torch.tensor([row.answered for row in rows]),
    )


def soften(pictures: torch.Tensor) -> torch.Tensor:
    """Blur half of the pictures a little and shift their brightness: a browser's letters are not Pillow's."""
    x = pictures.float().permute(0, 3, 1, 2)
    each = (len(x), 1, 1, 1)
    share = torch.rand(each, device=x.device) * 0.22 * (torch.rand(each, device=x.device) < 0.5)
    for side in (2, 3):
        x = (1 - 2 * share) * x + share * (torch.roll(x, 1, side) + torch.roll(x, -1, side))
    gain = 1 + (torch.rand(each, device=x.device) - 0.5) * 0.1
    return (x * gain).clamp(0, 255).permute(0, 2, 3, 1).contiguous()
