"""A workbook in which people rate a sweep's answers, blind (scripts/export_for_rating SWEEP_DIR --out FILE.xlsx).

A row is one text about one screenshot, the references among them: nothing says who wrote which. Screenshots come in
random order, and so do the texts about each. What people filled in is read back by

    vlm-eval-judge SWEEP_DIR judge=people judge.path=FILE.xlsx
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence

from vlm_eval import images, paths
from vlm_eval.errors import BadInput
from vlm_eval.judges.people import COMMENT, KEY, RATER, SCORE, key_of
from vlm_eval.judges.scale import HIGHEST, LOWEST
from vlm_eval.rows import Answer
from vlm_eval.store import RunFolder, read_json
from vlm_eval.tables import neutral

COLUMNS = {KEY: 16, "screenshot": 12, "picture": 27, "question": 30, "answer": 80, SCORE: 8, COMMENT: 40, RATER: 12}
THUMBNAIL, PICTURE = (180, 240), (900, 1400)  # at most so many pixels wide and high
JPEG_QUALITY = 75
POINTS_PER_PIXEL = 0.75
LINE_POINTS = 15
CELL_CHARS = 32_000  # Excel's own limit is 32,767


@dataclass(frozen=True)
class Text:
    """One row of the workbook."""

    key: str
    image: Path
    question: str
    text: str


def main() -> int:
    parser = argparse.ArgumentParser(
        "export_for_rating", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.xlsx")
    parser.add_argument(
        "--per-run", type=int, metavar="N", help="answers of each run, of all screenshots; default: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the order; default 0")
    parser.add_argument("--instructions", default="people.ru.txt", help="what raters read; default: in Russian")
    asked = parser.parse_args()
    try:
        texts = read_texts(asked.sweep_dir, asked.per_run, asked.seed)
        write(texts, asked.out, asked.instructions)
    except BadInput as error:
        print(f"export_for_rating: {error}", file=sys.stderr)
        return 2
    pictures = len({text.image for text in texts})
    size = asked.out.stat().st_size / 2**20
    print(f"{asked.out}: {len(texts)} texts about {pictures} screenshots, {size:.1f} MiB. When it is filled in:")
    print(f"vlm-eval-judge {asked.sweep_dir} judge=people judge.path={asked.out}")
    return 0


# ------------------------------------------------------------------------------------------------------------- the rows


def read_texts(sweep_dir: Path, per_run: Optional[int], seed: int) -> list[Text]:
    """The rows, in their order: answers of the ok runs and the references of what they are about, each text once."""
    if per_run is not None and per_run < 1:
        raise BadInput(f"--per-run={per_run}: at least 1")
    sweep = read_json(sweep_dir / "sweep.json")
    if not sweep:
        raise BadInput(f"{sweep_dir}: no sweep.json here; give the folder of a sweep")
    texts: dict[str, Text] = {}
    for run in (RunFolder(sweep_dir / point["folder"]) for point in sweep["points"]):
        if run.status().get("state") != "ok":
            continue
        items, root = {item.item_id: item for item in run.read("items")}, Path(run.provenance()["data_root"])
        for answer in _sample(run.read("answers"), per_run, seed):
            item = items[answer.item_id]
            for text in filter(None, (answer.text, (item.reference or "").strip() and item.reference)):
                key = key_of(item, text)
                texts[key] = Text(key, root / item.image, item.question or "", text)
    if not texts:
        raise BadInput(f"{sweep_dir}: no run that ended ok has an answer")
    return _shuffled(texts.values(), seed)


def _sample(answers: Iterable[Answer], count: Optional[int], seed: int) -> list[Answer]:
    """So many answers with text, spread over the screenshots. Runs over the same items give the same ones, so that
    people compare like with like."""
    clusters: dict[str, list[tuple[str, Answer]]] = defaultdict(list)
    for answer in answers:
        if answer.text is not None:
            drawn = hashlib.sha256(f"{seed}:{answer.item_id}:{answer.repeat}".encode()).hexdigest()
            clusters[answer.cluster].append((drawn, answer))
    rounds = [
        (number, drawn, answer)
        for group in clusters.values()
        for number, (drawn, answer) in enumerate(sorted(group, key=lambda pair: pair[0]))
    ]
    return [answer for *_, answer in sorted(rounds, key=lambda entry: entry[:2])[:count]]


def _shuffled(texts: Iterable[Text], seed: int) -> list[Text]:
    """Those about one screenshot and question together, so that a rater looks at it once; else at random."""
    groups: dict[tuple[str, str], list[Text]] = defaultdict(list)
    for text in sorted(texts, key=lambda text: text.key):  # not in the order of the runs
        groups[str(text.image), text.question].append(text)
    shuffle = random.Random(seed).shuffle
    order = sorted(groups)
    shuffle(order)
    for group in groups.values():
        shuffle(group)
    return [text for key in order for text in groups[key]]


# --------------------------------------------------------------------------------------------------------- the workbook


def write(texts: Sequence[Text], out: Path, instructions: str) -> None:
    """Three sheets: what is filled in, the screenshots large, and how to rate."""
    from openpyxl import Workbook

    if out.suffix.lower() != ".xlsx":
        raise BadInput(f"--out={out}: a workbook ends in .xlsx")
    if out.exists():
        raise BadInput(f"--out={out}: is there already and may hold ratings; take another name")
    how = paths.prompt(instructions, "judge")
    if not how.is_file():
        raise BadInput(f"--instructions={instructions}: no such file, here or in conf/judge/prompts")
    book = Workbook()
    ratings = book.active
    ratings.title = "ratings"  # the first sheet is the one that is read back
    places = _write_screenshots(book.create_sheet("screenshots"), [text.image for text in texts])
    _write_ratings(ratings, texts, places)
    _write_instructions(book.create_sheet("how to rate"), how.read_text(encoding="utf-8"))
    out.parent.mkdir(parents=True, exist_ok=True)
    book.save(out)


def _write_ratings(sheet: Any, texts: Sequence[Text], places: dict[Path, tuple[str, int]]) -> None:
    from openpyxl.styles import Alignment, Font
    from openpyxl.worksheet.datavalidation import DataValidation

    for number, (name, width) in enumerate(COLUMNS.items(), start=1):
        sheet.cell(1, number, name).font = Font(bold=True)
        sheet.column_dimensions[sheet.cell(1, number).column_letter].width = width
    for row, text in enumerate(texts, start=2):
        label, place = places[text.image]
        for name, value in {KEY: text.key, "screenshot": label, "question": text.question, "answer": text.text}.items():
            _put(sheet.cell(row, _number(name)), value)
        for number in range(1, len(COLUMNS) + 1):
            sheet.cell(row, number).alignment = Alignment(wrap_text=True, vertical="top")
        link = sheet.cell(row, _number("screenshot"))
        link.hyperlink = f"#'screenshots'!A{place}"
        link.style = "Hyperlink"
        thumbnail = _picture(text.image, THUMBNAIL)
        sheet.add_image(thumbnail, sheet.cell(row, _number("picture")).coordinate)
        lines = sum(1 + len(line) // COLUMNS["answer"] for line in text.text.split("\n"))
        # Excel has no rows higher than 409 points.
        sheet.row_dimensions[row].height = min(
            409, max(thumbnail.height * POINTS_PER_PIXEL + 4, (lines + 1) * LINE_POINTS)
        )
    scores = DataValidation("whole", operator="between", formula1=str(LOWEST), formula2=str(HIGHEST), allow_blank=True)
    scores.showErrorMessage, scores.error = True, f"{LOWEST}–{HIGHEST}"
    sheet.add_data_validation(scores)
    score = sheet.cell(1, _number(SCORE)).column_letter
    scores.add(f"{score}2:{score}{len(texts) + 1}")
    sheet.freeze_panes = "A2"


def _write_screenshots(sheet: Any, shown: Iterable[Path]) -> dict[Path, tuple[str, int]]:
    """Each screenshot once, large: path -> (its label, its row)."""
    places, row = {}, 1
    for number, path in enumerate(dict.fromkeys(shown), start=1):
        places[path] = (f"screenshot {number}", row)
        sheet.cell(row, 1, f"screenshot {number}")
        picture = _picture(path, PICTURE)
        sheet.add_image(picture, f"A{row + 1}")
        row += 3 + int(picture.height * POINTS_PER_PIXEL / LINE_POINTS)
    return places


def _write_instructions(sheet: Any, text: str) -> None:
    from openpyxl.styles import Alignment

    sheet.column_dimensions["A"].width = 110
    for row, line in enumerate(text.strip().split("\n"), start=1):
        sheet.cell(row, 1, line).alignment = Alignment(wrap_text=True, vertical="top")
        sheet.row_dimensions[row].height = LINE_POINTS * (1 + len(line) // 100)


def _picture(path: Path, most: tuple[int, int]) -> Any:
    """A picture for a sheet; each place needs one of its own."""
    from openpyxl.drawing.image import Image

    return Image(io.BytesIO(_jpeg(path, most)))


@functools.cache  # a thumbnail stands in every row about its screenshot
def _jpeg(path: Path, most: tuple[int, int]) -> bytes:
    """A screenshot no larger than `most`, without what its file says of itself."""
    picture = images.load(path)
    picture.thumbnail(most)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()


def _put(cell: Any, text: str) -> None:
    """Text as it is, but no formula, no characters that a workbook cannot hold, not too long. None of it is read back:
    a row is known by its key."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    text = ILLEGAL_CHARACTERS_RE.sub("\N{REPLACEMENT CHARACTER}", text.encode("utf-8", "replace").decode())
    text = neutral(text)
    if len(text) > CELL_CHARS:
        text = f"{text[:CELL_CHARS]} [… {len(text) - CELL_CHARS} more characters]"
    cell.value = text
    cell.data_type = "s"


def _number(column: str) -> int:
    return list(COLUMNS).index(column) + 1


if __name__ == "__main__":
    sys.exit(main())
