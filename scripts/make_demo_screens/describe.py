"""From a kind of screen to one screen: what it shows (`Screen.blocks`), what its user writes, what may be asked.

Texts are in kinds/*.yaml, questions.yaml and values.yaml. A seed fixes everything. The three splits share no
combination of values (a hash of the values says whose they are) and no wording of explanations, requests, questions
and answers (each text belongs to one split); headlines, labels and buttons are common to all.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

HERE = Path(__file__).parent
SPLITS = ("train", "val", "test")
DEVICES = ("phone", "desktop")
LAYOUTS = {"phone": ("hero", "banner", "sheet"), "desktop": ("columns", "centre")}
SHARE_OF_HUNDRED = {"test": 3, "val": 3}  # of all combinations of values; the rest is for training
BY_LAYOUT = {"days": (2, 14), "minutes": (5, 60), "attempts": (1, 5), "number": (101, 999), "size": (36, 48)}
INITIALS = "АБВГДЕЖЗИКЛМНОПРСТФШЭЯ"
AGREES = {  # with a noun's gender: masculine, feminine, neuter
    "какой": ("какой", "какая", "какое"),
    "указан": ("указан", "указана", "указано"),
    "виден": ("виден", "видна", "видно"),
    "показан": ("показан", "показана", "показано"),
}


@dataclass(frozen=True)
class Screen:
    """One screen, drawn by nobody yet."""

    kind: str
    split: str
    device: str
    layout: str
    theme: str
    brand: str
    description: dict  # in the words of the templates: title, body, footer, sheet, ...
    values: dict[str, str]
    facts: list[str]  # what the request must carry, spelt as on the screen
    request: str
    questions: list[dict]  # {"name", "question", "answer", "facts"}


@cache
def kinds() -> list[dict]:
    return [kind for file in sorted((HERE / "kinds").glob("*.yaml")) for kind in read(file)]


@cache
def texts(name: str) -> dict:
    return read(HERE / name)


def read(path: Path):
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def money(kopecks: int) -> str:
    rubles = f"{kopecks // 100:,}".replace(",", " ")
    return f"{rubles},{kopecks % 100:02d} ₽" if kopecks % 100 else f"{rubles} ₽"


def draw_value(name: str, given, rng: random.Random) -> str:
    """A value of the kind its name says; `given` is a money range or a code's letters."""
    lists = texts("values.yaml")
    match name:
        case "card" | "account":
            return f"•• {rng.randrange(10000):04d}"
        case "payee":
            if rng.random() < 0.5:
                return f"{rng.choice(lists['first_names'])} {rng.choice(INITIALS)}."
            return rng.choice(lists["companies"])
        case "date":
            return f"{rng.randint(1, 28):02d}.{rng.randint(1, 12):02d}.{rng.randint(2021, 2024)}"
        case "due":
            return f"{rng.randint(1, 28):02d}.{rng.randint(1, 12):02d}.{rng.randint(2025, 2027)}"
        case "time" | "until":
            return f"{rng.randrange(24):02d}:{rng.choice((0, 15, 30, 45) if name == 'until' else range(60)):02d}"
        case "code":
            return f"{given}-{rng.randint(10, 9999)}"
        case "order":
            return f"{rng.randint(10000, 99999)}-{rng.randrange(10000):04d}"
        case "discount":
            return f"{rng.choice(range(5, 75, 5))} %"
        case "promo":
            return f"{rng.choice(lists['promo_words'])}{rng.randint(5, 99)}"
        case "address":
            return f"{rng.choice(lists['streets'])}, {rng.randint(1, 180)}"
        case "phone":
            return f"8 800 {rng.randint(100, 999)}-{rng.randrange(100):02d}-{rng.randrange(100):02d}"
        case "email":
            return f"{rng.choice(lists['mail_names'])}.{rng.choice('abdegiklmnoprstv')}@pochta.ru"
        case "device":
            return f"{rng.choice(lists['devices'])}, {rng.choice(lists['cities'])}"
        case "product":
            return rng.choice(lists[given or "products"])
        case "city":
            return rng.choice(lists["cities"])
        case "tariff":
            return rng.choice(lists["tariffs"])
        case "operator":
            return rng.choice(lists["operators"])
    if name in BY_LAYOUT:
        return str(rng.randint(*BY_LAYOUT[name]))
    low, high = (int(end) for end in str(given or "100-99999").split("-"))
    rubles = rng.randint(low, high)
    return money(rubles * 100 + (rng.randrange(100) if rng.random() < 0.3 else 0))


def split_of(values: dict[str, str]) -> str:
    """Whose this combination of values is; the same on every machine."""
    place = int(hashlib.sha256("\0".join(sorted(values.values())).encode()).hexdigest()[:8], 16) % 100
    if place < SHARE_OF_HUNDRED["test"]:
        return "test"
    return "val" if place < SHARE_OF_HUNDRED["test"] + SHARE_OF_HUNDRED["val"] else "train"


def draw_values(kind: dict, split: str, rng: random.Random) -> dict[str, str]:
    while True:
        values = {name: draw_value(name, given, rng) for name, given in kind["values"].items()}
        # A question about one of two equal values could not be told from one about the other.
        if len(set(values.values())) == len(values) and split_of(values) == split:
            return values


def describe(rng: random.Random, split: str, kind: dict | None = None, device: str | None = None) -> Screen:
    """One screen of this split; kind and device are drawn where none is given."""
    kind = kind or rng.choice(kinds())
    device = device or rng.choices(DEVICES, (3, 1))[0]
    layout = rng.choice(LAYOUTS[device])
    values = draw_values(kind, split, rng)
    buttons = rng.choice(kind["buttons"])
    problem = rng.choice(kind["problem"])
    named = {**values, "problem": problem, "button": buttons[0]}
    explain = rng.choice(kind["explain"][split]).format(**named)
    rows = [[rng.choice(labels), shown.format(**named)] for labels, shown in kind["rows"]]
    if rng.random() < 0.5:
        rng.shuffle(rows)
    description = {
        "device": device,
        "brand": kind["brand"],
        "theme": rng.choice(("light", "light", "dark")),
        "time": f"{rng.randrange(24):02d}:{rng.randrange(60):02d}",
        "battery": rng.randint(8, 100),
        "title": rng.choice(kind["header"]),
        **arrange(layout, problem, explain, named.get(kind.get("big")), rows, buttons, rng),
    }
    distract(description, layout, rng)
    facts = [problem, *(named[name] for name in kind["facts"])]
    return Screen(
        kind=kind["kind"],
        split=split,
        device=device,
        layout=layout,
        theme=description["theme"],
        brand=kind["brand"],
        description=description,
        values=named,
        facts=facts,
        request=rng.choice(kind["requests"][split]).format(**named),
        questions=ask(named, shown_once(named, explain, rows, named.get(kind.get("big"))), split, rng),
    )


def arrange(layout: str, problem: str, explain: str, big: str | None, rows: list, buttons: list, rng) -> dict:
    """The blocks of the templates, in one of the layouts."""
    tone, icon = rng.choice((("bad", "close"), ("warn", "alert"), ("bad", "alert")))
    hero = {"hero": {"tone": tone, "icon": icon, "title": problem, "text": explain, **({"amount": big} if big else {})}}
    pressed = {"buttons": [[label, "main" if not place else "second"] for place, label in enumerate(buttons)]}
    notice = {"banner": {"tone": tone, "icon": icon, "title": problem, "text": explain}}
    large = [{"field": {"label": "Сумма", "value": big, "size": "large"}}] if big else []
    match layout:
        case "hero":
            return {"body": [hero, {"rows": rows}], "footer": [pressed]}
        case "banner":
            return {"body": [notice, *large, {"rows": rows}, pressed]}
        case "sheet":
            return {"body": [{"rows": rows}], "sheet": [hero, pressed]}
        case "columns":
            return {"body": [{"columns": {"widths": "1fr 1fr", "parts": [[hero, pressed], [{"rows": rows}]]}}]}
        case "centre":  # little height: the sum is one more row
            return {"body": [notice, {"rows": [*([["Сумма", big]] if big else []), *rows]}, pressed]}
    raise ValueError(f"no layout {layout!r}")


def distract(description: dict, layout: str, rng: random.Random) -> None:
    """What stands on real screens beside the trouble: tabs, or links to help."""
    brand = description["brand"]
    links = {"links": rng.sample(texts("values.yaml")[f"links_{brand}"], 2)}
    match layout, rng.random():
        case "banner", draw if draw < 0.4:
            description["tab"] = rng.choice([label for _, label in texts("brands.yaml")[brand]["tabs"]])
        case "banner", draw if draw < 0.7:
            description["body"].append(links)
        case "columns", draw if draw < 0.6:
            description["body"][0]["columns"]["parts"][1].append(links)


def shown_once(named: dict, explain: str, rows: list, big: str | None) -> list[str]:
    """The names of the values that the screen really shows."""
    seen = " | ".join([explain, big or "", named["problem"], named["button"], *(shown for _, shown in rows)])
    return [name for name, value in named.items() if value in seen]


def ask(named: dict, names: list[str], split: str, rng: random.Random) -> list[dict]:
    bank = texts("questions.yaml")
    asked = []
    for name in names:
        answer = rng.choice(bank[name]["answer"][split])
        facts = [named[part] for part in dict.fromkeys(re.findall(r"{(\w+)}", answer))]
        question = rng.choice(wordings(name, split))
        asked.append({"name": name, "question": question, "answer": answer.format(**named), "facts": facts})
    rng.shuffle(asked)
    return asked


@cache
def wordings(name: str, split: str) -> list[str]:
    """Every question of this split about a value."""
    bank = texts("questions.yaml")
    own = bank[name]["ask"][split]
    if split != "train" or "noun" not in bank[name]:
        return own
    noun, gender = bank[name]["noun"]
    words = {word: forms["mfn".index(gender)] for word, forms in AGREES.items()} | {"noun": noun}
    words |= {word.capitalize(): form.capitalize() for word, form in words.items()}
    return [*own, *(text.format(**words) for text in bank["common"])]
