"""The language metric as its YAML sets it up, for its tests."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from vlm_eval import config

from ..helpers import REPO
from .data import answered

pylat_ru = pytest.importorskip("pylat_ru", reason="needs the extra `grammar`")
download_lt = pytest.importorskip("language_tool_python.download_lt", reason="needs the extra `grammar`")

CLEAN = "Здравствуйте! Оплата не прошла."
WRONG = "Превет, у меня не работаит приложение."  # two spelling mistakes
STRANGE = {  # text: mistakes in it
    "": 0,
    " \n\t ": 0,
    "Да": 0,
    "...?!": 0,
    "😀🙏🏽👨‍👩‍👧": 0,
    "لم يتم الدفع \u202e": 0,
    "Превет\0 мир\0": 1,
    "\ud83d Превет \udc00": 1,
    "При\u00adвет, прия\u0301тель": None,
}


def language(**more):
    """The metric with the YAML's settings and pylat-ru, but for `more`."""
    node = OmegaConf.load(REPO / "conf" / "metrics" / "language.yaml").language
    return config.build(OmegaConf.merge(node, {"backend": "pylat", **more}))


def columns(*texts, **more):
    """The columns of each text."""
    return list(language(**more).score(answered(texts)).values())
