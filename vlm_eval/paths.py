"""Where the project's own files lie, in a checkout and in an installed wheel."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def conf() -> Path:
    """The folder of Hydra's config groups: `conf/` of the checkout, else the copy inside the wheel."""
    checkout = PACKAGE.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else PACKAGE / "conf"


def demo(name: str) -> str:
    """A file or folder of the bundled demo, e.g. `models/bf16`."""
    return str(PACKAGE / "demo" / name)


def cache() -> Path:
    """What is kept between sweeps and can be made again: $VLM_EVAL_CACHE."""
    return Path(os.environ.get("VLM_EVAL_CACHE", "~/.cache/vlm-eval")).expanduser()


def prompt(name: str, group: str = "task") -> Path:
    """A prompt file: a path from where the person stands, else one of `conf/<group>/prompts`."""
    here = Path(name)
    return here if here.is_file() else conf() / group / "prompts" / name
