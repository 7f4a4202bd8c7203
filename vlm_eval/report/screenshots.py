"""Screenshots for a report: each once, as a JPEG small enough to send on."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Mapping, Optional

from vlm_eval import images
from vlm_eval.report.data import SweepData

Shown = tuple[str, str]  # data root, image below it


def write_screenshots(data: SweepData, out: Path) -> tuple[dict[Shown, str], list[str]]:
    """(data root, image) -> file below `out`, and the names of those that are missing or broken."""
    folder = out / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    # Not of a bad item: what its table names may be no picture of the data at all.
    items = ((c, item) for c in data.candidates for item in c.items.values() if not item.error)
    wanted = list(dict.fromkeys((str(c.data_root), item.image) for c, item in items))
    named = [(shown, f"{number:04d}-{_plain(shown[1])}.jpg") for number, shown in enumerate(wanted, start=1)]
    with ThreadPoolExecutor(2) as pool:  # Pillow works without the interpreter's lock
        written = list(pool.map(lambda pair: _write(Path(pair[0][0]) / pair[0][1], folder / pair[1]), named))
    files = {shown: f"screenshots/{name}" for (shown, name), ok in zip(named, written, strict=True) if ok}
    return files, [shown[1] for shown, _ in named if shown not in files]


def _write(source: Path, target: Path) -> bool:
    try:
        picture = images.thumbnail(source)
    except images.BadImage:
        return False
    target.write_bytes(picture)
    return True


def _plain(image: str) -> str:
    """The image's own name as far as every file system and link takes it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(image).stem)[:40]


def place(files: Mapping[Shown, str], root: Path, image: str) -> Optional[str]:
    return files.get((str(root), image))
