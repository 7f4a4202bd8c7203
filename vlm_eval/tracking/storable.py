"""Text as every store keeps it."""

from __future__ import annotations

from typing import Any


def storable(thing: Any) -> Any:
    """Text, or what holds texts, with "?" for half an emoji and U+FFFD for NUL: JSON has both, databases neither."""
    if isinstance(thing, str):
        return thing.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
    if isinstance(thing, dict):
        return {storable(key): storable(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [storable(value) for value in thing]
    return thing
