"""README.ru.md says in Russian what README.md says: the same commands, options, tables, links and numbers.

What no test can see is the wording: whoever changes a sentence without any of these changes it in both files.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator, Sequence

import pytest

REPO = Path(__file__).resolve().parents[1]
TO_RUSSIAN, TO_ENGLISH = "По-русски: [README.ru.md](README.ru.md)", "In English: [README.md](README.md)"

HEADING = re.compile(r"(#{1,6}) +(.*)")
COMMENT = re.compile(r"(?:^|  )#.*")  # in http://HOST/#/experiments and "#/experiments" it is none
INLINE_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)]+)\)")
NUMBER = re.compile(r"\d+(?:\.\d+)*")
SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)")  # 16 384
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)")  # 16,384
DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")  # 0,985
CYRILLIC = re.compile(r"[а-яё]", re.IGNORECASE)


@dataclass
class Section:
    """What stands from one `##` on to the next."""

    title: str
    line: int
    blocks: list[str] = field(default_factory=list)  # kinds, in order
    code: list[str] = field(default_factory=list)  # lines, a comment as a bare "  #"
    comments: list[str] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)  # lines of headings, paragraphs and tables
    tables: list[list[str]] = field(default_factory=list)  # of each the rows, as their first cells' inline code

    @property
    def text(self) -> str:
        return "\n".join(self.prose)

    @property
    def words(self) -> str:
        """What is there to be translated, but for comments."""
        return LINK.sub(lambda link: link[0].rpartition("](")[0], INLINE_CODE.sub(" ", self.text))


def sections(text: str, link_to_the_other: str) -> list[Section]:
    found = [Section("(above the first ##)", 1)]
    block, fenced = "", False
    for number, line in enumerate(text.splitlines(), start=1):
        here = found[-1]
        if line == link_to_the_other:
            continue
        if line.startswith("```"):
            here.blocks += [] if fenced else ["code"]
            block, fenced = "", not fenced
        elif not line.strip():
            block = ""
        elif fenced or line.startswith("    "):
            line = line if fenced else line[4:]
            here.blocks += [] if fenced or block == "code" else ["code"]
            comment = COMMENT.search(line)
            here.comments += [comment[0]] if comment else []
            here.code.append(line[: comment.start()].rstrip() + "  #" if comment else line.rstrip())
            block = block if fenced else "code"
        else:
            heading = HEADING.fullmatch(line)
            if heading and heading[1] == "##":
                here = Section(heading[2], number)
                found.append(here)
            kind = heading[1] if heading else "table" if line.startswith("|") else "text"
            if kind != block or heading:
                here.blocks.append(kind)
                here.tables += [[]] if kind == "table" else []
            if kind == "table":
                cells = re.split(r"(?<!\\)\|", line)[1:-1]
                here.tables[-1].append(f"{' '.join(inline_code(cells[0])) or '(no code)'} of {len(cells)} cells")
            here.prose.append(line)
            block = kind
    return found


def inline_code(text: str) -> list[str]:
    return [" ".join(code.split()) for _, code in INLINE_CODE.findall(text)]


def links(text: str) -> list[str]:
    return [("picture " if mark else "link ") + target for mark, target in LINK.findall(INLINE_CODE.sub("code", text))]


def numbers(section: Section, russian: bool) -> list[str]:
    text = "\n".join([section.words, *section.comments])
    if not russian:
        text = THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    text = SPACED.sub(lambda number: re.sub(r"\s", "", number[0]), text)
    return NUMBER.findall(DECIMAL_COMMA.sub(".", text) if russian else text)


def differences(english: str, russian: str) -> list[str]:
    """What has to be done in README.ru.md, a sentence each."""
    said = [f"README.md: add the line {TO_RUSSIAN!r}"] if TO_RUSSIAN not in english.splitlines() else []
    said += [f"README.ru.md: add the line {TO_ENGLISH!r}"] if TO_ENGLISH not in russian.splitlines() else []
    ours, theirs = sections(english, TO_RUSSIAN), sections(russian, TO_ENGLISH)
    if len(ours) != len(theirs):
        titles = [f"{len(file) - 1} sections: " + " | ".join(s.title for s in file[1:]) for file in (ours, theirs)]
        return [*said, f"README.md has {titles[0]}; README.ru.md has {titles[1]}"]
    for en, ru in zip(ours, theirs):
        where = f'README.md:{en.line} "{en.title}", README.ru.md:{ru.line} "{ru.title}"'
        said += [f"{where}: {what}" for what in _of_section(en, ru)]
    return said


def _of_section(en: Section, ru: Section) -> Iterator[str]:
    yield from _in_order("code line", en.code, ru.code)
    yield from _in_any_order("inline code", inline_code(en.text), inline_code(ru.text))
    if len(en.tables) == len(ru.tables):
        for number, (rows, russian_rows) in enumerate(zip(en.tables, ru.tables), start=1):
            yield from _in_order(f"row of table {number}, which begins with", rows, russian_rows)
    yield from _in_any_order("link or picture", links(en.text), links(ru.text))
    yield from _in_any_order("number", numbers(en, russian=False), numbers(ru, russian=True))
    if en.blocks != ru.blocks:
        yield f"paragraphs, tables and code alternate as {' '.join(en.blocks)}, in README.ru.md {' '.join(ru.blocks)}"
    letters = [letter for letter in ru.words if letter.isalpha()]
    cyrillic = sum(bool(CYRILLIC.match(letter)) for letter in letters)
    if letters and 2 * cyrillic <= len(letters):
        yield f"not in Russian: {cyrillic} of {len(letters)} letters outside code are Cyrillic"


def _in_order(what: str, english: Sequence[str], russian: Sequence[str]) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(a=english, b=russian, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            yield from _told(what, english[a:b], russian[c:d])


def _in_any_order(what: str, english: Iterable[str], russian: Iterable[str]) -> Iterator[str]:
    ours, theirs = Counter(english), Counter(russian)
    yield from _told(what, (ours - theirs).elements(), (theirs - ours).elements())


def _told(what: str, missing: Iterable[str], surplus: Iterable[str]) -> Iterator[str]:
    yield from (f"README.ru.md lacks the {what}: {one}" for one in missing)
    yield from (f"README.ru.md alone has the {what}: {one}" for one in surplus)


def test_the_russian_readme_is_in_step_with_the_english_one():
    english, russian = ((REPO / name).read_text(encoding="utf-8") for name in ("README.md", "README.ru.md"))
    found = differences(english, russian)
    assert not found, "\n" + "\n".join(found)
    # What was compared is not nothing.
    compared = sections(english, TO_RUSSIAN)
    assert len(compared) > 1
    for part in (lambda s: s.code, lambda s: s.tables, lambda s: links(s.text), lambda s: numbers(s, russian=False)):
        assert any(part(section) for section in compared)


ENGLISH = f"""\
# tool

{TO_RUSSIAN}

Reads 16,384 tokens in 0.5 s.

## A sweep

    tool run --at http://127.0.0.1/#/runs     # one run
    # all of them
    tool sweep

Take `--fast` or `--dry`, see [the guide](docs/guide.md).

| option | |
| --- | --- |
| `a.path` `.name` | a folder |
| `b.size` | 1.5 GiB |

![A page](docs/page.png)

```
x = 1  # comment
```
"""
RUSSIAN = f"""\
# tool

{TO_ENGLISH}

Читает 16 384 токена за 0,5 с.

## Свип

    tool run --at http://127.0.0.1/#/runs     # один прогон
    # все прогоны
    tool sweep

Задайте `--dry` или `--fast`, см. [руководство](docs/guide.md).

| опция | |
| --- | --- |
| `a.path` `.name` | папка |
| `b.size` | 1,5 ГиБ |

![Страница](docs/page.png)

```
x = 1  # комментарий
```
"""


def test_a_translation_has_no_differences():
    assert differences(ENGLISH, RUSSIAN) == []


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("/#/runs ", "/#/run ", "lacks the code line: tool run --at http://127.0.0.1/#/runs  #"),
        ("    tool sweep\n", "", "lacks the code line: tool sweep"),
        ("x = 1  # комментарий", "x = 2  # комментарий", "alone has the code line: x = 2  #"),
        ("     # один прогон", "", "lacks the code line: tool run --at http://127.0.0.1/#/runs  #"),
        ("`--dry` или `--fast`", "`--fast`", "lacks the inline code: --dry"),
        ("`--dry`", "`--dry` `--wet`", "alone has the inline code: --wet"),
        ("| `b.size` | 1,5 ГиБ |\n", "", "lacks the row of table 1, which begins with: b.size of 2 cells"),
        ("| папка |", "| | папка |", "lacks the row of table 1, which begins with: a.path .name of 2 cells"),
        ("docs/guide.md", "docs/other.md", "lacks the link or picture: link docs/guide.md"),
        ("![Страница](docs/page.png)\n\n", "", "lacks the link or picture: picture docs/page.png"),
        ("1,5 ГиБ", "1,6 ГиБ", "lacks the number: 1.5"),
        ("за 0,5 с", "за 5 с", "README.ru.md lacks the number: 0.5"),
        ("16 384", "16 385", "lacks the number: 16384"),
        ("Задайте `--dry`", "Новое.\n\nЗадайте `--dry`", "paragraphs, tables and code alternate as"),
        ("## Свип\n", "## Свип\n\n## Ещё\n", "1 sections: A sweep; README.ru.md has 2 sections: Свип | Ещё"),
        (TO_ENGLISH, "", "README.ru.md: add the line"),
        ("Читает 16 384 токена за 0,5 с.", "Reads 16 384 tokens in 0,5 s.", "not in Russian: 0 of"),
    ],
)
def test_it_says_what_is_missing(old, new, told):
    assert RUSSIAN.count(old) == 1
    found = differences(ENGLISH, RUSSIAN.replace(old, new))
    assert any(told in sentence for sentence in found), found


def test_it_says_where_it_is_missing():
    for old, place in {
        "0,5": 'README.md:1 "(above the first ##)", README.ru.md:1 "(above the first ##)": ',
        "1,5": 'README.md:7 "A sweep", README.ru.md:7 "Свип": ',
    }.items():
        found = differences(ENGLISH, RUSSIAN.replace(old, ""))
        assert found and all(sentence.startswith(place) for sentence in found), found
