"""A command line or a config that holds a secret is refused, before Hydra or anybody else writes it down.

A config names the variable that holds a key, never the key. What is refused is named by its option and never shown.
"""

from __future__ import annotations

import functools
import re
import sys
import traceback
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from vlm_eval import secrets
from vlm_eval.errors import BadInput

OF_STORES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD hold a server's, PGPASSWORD PostgreSQL's"


def refuse_in_arguments(arguments: Sequence[str]) -> None:
    """BadInput for a command line that holds a secret; it names the option and never shows the value."""
    for number, argument in enumerate(arguments, start=1):
        name, equals, value = argument.partition("=")
        name = name.lstrip("+~")
        if not equals or not re.fullmatch(r"[\w./@-]+", name):
            before = arguments[number - 2] if number > 1 else ""
            name, value = before if before.startswith("-") else f"argument {number}", argument
        _refuse(name, value, _wrong_with(name, value) or _wrong_with("", name) or _wrong_in_braces(value))


def refuse_in_config(config: Any, where: str = "") -> None:
    """The same for a config as it was composed, or a part of it: an OmegaConf node, or plain dicts and lists."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    for name, value in _leaves(plain, where):
        _refuse(name, str(value), _wrong_with(name, str(value)))


def _refuse(name: str, value: str, why: Optional[str]) -> None:
    if why is None:
        return
    if name.startswith(("tracking", "--uri")) or name.endswith("tracking_uri") or "sql" in value.partition("://")[0]:
        way_out = f"give the address without it: {OF_STORES}"
    else:
        group = name.partition(".")[0]
        who = group if group in ("judge", "engine") else "judge"
        way_out = f"export the key and give the variable's name: {who}.api_key_env=NAME"
    raise BadInput(f"{secrets.mask(name)}{why}; {way_out}")


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested dicts and lists."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{name}.{number}")
    else:
        yield name, node


def _wrong_with(name: str, value: str) -> Optional[str]:
    """What is secret about an option, by its name or its value, as a sentence goes on after the name; else None."""
    plain = value.strip().strip("'\"")
    if plain.lower() in ("", "null", "none", "true", "false", "???"):
        return None
    if name.endswith("_env") and "${" not in plain:
        if not all(secrets.names_a_variable(word) for word in re.split(r"[\s,()\[\]'\"]+", plain) if word):
            return ": not the name of a variable"
    elif secrets.is_secret_name(name):
        return " holds a key"  # without a colon, or mask() would take the next word for the key
    found = secrets.secret_in(plain)
    return found and f": {found}"


def _wrong_in_braces(value: str) -> Optional[str]:
    """{hf_token: x} as an override's value; what Hydra makes of it would be refused too, but later."""
    if not value.lstrip("'\"").startswith(("{", "[")):
        return None
    pairs = re.findall(r"[{,]\s*['\"]?([\w.-]+)['\"]?\s*:\s*([^,{}\]]+)", value)
    return next(filter(None, (_wrong_with(name, inner) for name, inner in pairs)), None)


def guarded(program: str) -> Callable[[Callable[[], int]], Callable[[], int]]:
    """For a command's main(): arguments with a secret are refused, and what it says goes out masked."""

    def wrap(main: Callable[[], int]) -> Callable[[], int]:
        @functools.wraps(main)
        def command() -> int:
            with secrets.masked_output():
                try:
                    refuse_in_arguments(sys.argv[1:])
                except BadInput as error:
                    print(f"{program}: {error}", file=sys.stderr)
                    return 2
                try:
                    return main()
                except Exception:  # shown here, where it is masked
                    traceback.print_exc()
                    return 1

        return command

    return wrap
