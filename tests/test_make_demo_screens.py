"""The bundled screens can be made again: a real browser draws them, and their tables come out as they are shipped."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
SHIPPED = REPO / "vlm_eval" / "demo"


@pytest.mark.engine  # not for its engine, but for its half minute
@pytest.mark.needs("chromium", "inter", "roboto")
def test_made_again_the_tables_are_the_same_and_the_pictures_of_the_same_size(tmp_path):
    command = [sys.executable, REPO / "scripts" / "make_demo_screens", "--out", tmp_path, "--set", "small"]
    subprocess.run(command, check=True)
    for task in ("screen_annotation", "vqa"):
        assert (tmp_path / task / "items.csv").read_bytes() == (SHIPPED / task / "items.csv").read_bytes()
        pictures = [SHIPPED / task / "images" / made.name for made in (tmp_path / task / "images").iterdir()]
        assert len(pictures) >= 10
        for picture in pictures:
            with Image.open(picture) as old, Image.open(tmp_path / task / "images" / picture.name) as new:
                assert old.size == new.size
