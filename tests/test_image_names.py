"""A picture's name in a data table: the file below the data that it means, or a line that says why there is none."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_eval.errors import BadInput
from vlm_eval.tasks import image_names

LEADS_OUT = "leads out of task.data.root"
OUT = {
    "..": ("../../secret.png", LEADS_OUT),
    ".. in the middle": ("a/../../../secret.png", LEADS_OUT),
    ".. that comes back": ("../images/a.png", LEADS_OUT),
    ".. as Windows has it": ("..\\..\\secret.png", LEADS_OUT),
    ".. of both kinds": ("..\\../secret.png", LEADS_OUT),
    "absolute": ("/etc/hostname", LEADS_OUT),
    "absolute, twice": ("//etc/hostname", LEADS_OUT),
    "a link": ("link.png", "by a symbolic link"),
    "a linked folder": ("linked/secret.png", "by a symbolic link"),
    "a link to nothing outside": ("dangling.png", "by a symbolic link"),
    "a drive": ("C:\\Users\\a.png", "a path of another machine"),
    "a drive with slashes": ("c:/Users/a.png", "a path of another machine"),
    "a share": ("\\\\host\\share\\a.png", "a path of another machine"),
    "backslashes": ("sub\\b.png", "backslashes between folders; write sub/b.png"),
    "NUL": ("a.png\0.txt", "NUL character"),
    "file:": ("file:///etc/hostname", "neither a file's name nor an address"),
    "ftp:": ("ftp://example.com/a.png", "neither a file's name nor an address"),
    "data:": ("data:image/png;base64,AAAA", "neither a file's name nor an address"),
}
ALIKE = {
    "a Cyrillic а": ("а.png", "'a.png'", "where the table has а (CYRILLIC SMALL LETTER A) and the file a"),
    "Cyrillic throughout": ("sсrееn.png", "'screen.png'", "CYRILLIC SMALL LETTER ES"),
    "a Cyrillic folder": ("suЬ/b.png", None, "no such image"),
    "a Greek ο": ("phοne.png", "'phone.png'", "GREEK SMALL LETTER OMICRON"),
    "capitals": ("A.PNG", "'a.png'", "with other capital letters"),
    "a blank that is none": ("two\u00a0words.png", "'two words.png'", "with other blanks, dots or marks"),
    "a letter that is not seen": ("a\u200b.png", "'a.png'", "with other blanks, dots or marks"),
    "right to left": ("\u202ea.png", "'a.png'", "with other blanks, dots or marks"),
    "full width dots": ("．．/secret.png", None, "no such image"),
    "percent": ("%2e%2e/secret.png", None, "no such image"),
    "a home": ("~/secret.png", None, "no such image"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    root = outside / "data"
    (root / "images" / "sub").mkdir(parents=True)
    picture = Image.new("RGB", (8, 8))
    picture.save(outside / "secret.png")
    names = ("a.png", "screen.png", "phone.png", "two words.png", "sub/b.png", "no suffix.jpg", "и\u0306.png")
    for name in (*names, "C:odd.png", "..dots.png"):
        picture.save(root / "images" / name, "PNG")
    (root / "images" / "link.png").symlink_to(outside / "secret.png")
    (root / "images" / "dangling.png").symlink_to(outside / "nothing.png")
    (root / "images" / "linked").symlink_to(outside)
    (root / "images" / "inside.png").symlink_to("a.png")
    (root / "images" / "circle.png").symlink_to("circle.png")
    return root


@pytest.mark.parametrize("name, why", OUT.values(), ids=OUT)
def test_a_name_that_is_refused(root, name, why):
    with pytest.raises(BadInput) as error:
        image_names.find(root, "images", name)
    said = str(error.value)
    assert why in said and said.isprintable()


@pytest.mark.parametrize("name, file, difference", ALIKE.values(), ids=ALIKE)
def test_a_name_that_looks_like_a_files_is_not_it(root, name, file, difference):
    """Not taken for it: what nobody sees may be meant. But said, or it would be sought for long."""
    try:
        assert not os.path.lexists(root / image_names.find(root, "images", name)) and file is None
    except BadInput as error:
        said = str(error)
        assert file and f"no such image; there is {file}" in said and difference in said and said.isprintable()


def test_names_that_are_taken(root):
    for name in (
        "a.png",
        "sub/b.png",
        "inside.png",
        "two words.png",
        "C:odd.png",
        "..dots.png",
        "./a.png",
        "sub//b.png",
    ):
        found = image_names.find(root, "images", name)
        assert (root / found).is_file() and found.startswith("images/")
    assert image_names.find(root, "images", "no suffix", [".png", ".jpg"]) == "images/no suffix.jpg"
    assert image_names.find(root, "images", "nothing.png") == "images/nothing.png"  # for whoever opens it to say so


def test_a_letter_in_two_parts_is_the_same_letter(root):
    composed = unicodedata.normalize("NFC", "и\u0306.png")
    assert composed != "и\u0306.png"
    assert (root / image_names.find(root, "images", composed)).is_file()


def test_a_link_in_a_circle_is_refused(root):
    with pytest.raises(BadInput, match="by a symbolic link"):
        image_names.find(root, "images", "circle.png")


parts = st.sampled_from(
    ["..", ".", "", "a.png", "link.png", "linked", "sub", "secret.png", "/", "\\", "C:", "~", "а", "\0"]
)


@example("linked/../secret.png")
@example("\ud800.png")
@example("a" * 300)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.lists(parts, max_size=6).map("/".join), st.lists(parts, max_size=6).map("".join), st.text(max_size=30))
)
def test_whatever_a_name_is_it_stays_in_the_data(root, name):
    try:
        found = image_names.find(root, "images", name)
    except BadInput as error:
        assert str(error).isprintable()
        return
    inside = os.path.realpath(os.fsencode(root / "images"))
    where = os.path.realpath(os.path.join(os.fsencode(root), found.encode("utf-8", "surrogatepass")))
    assert where == inside or where.startswith(inside + b"/")
