"""What is a key or a password, and how it is masked wherever text goes out.

Secret are the values of variables whose name says so or that an option names, and what looks like a key. The rules are
our own: those of detect-secrets 1.5 know neither Hugging Face's nor Anthropic's keys, take hashes and MLflow's run ids
for secrets, and import `requests`.

Output is masked where Python writes it. What native code or a child process writes into a run's log goes past that; the
log is masked as a whole before MLflow gets it and when its run has ended.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
SHORTEST = 8  # a shorter "key" is a placeholder (EMPTY), and blanking it out would maim ordinary text

# ----------------------------------------------------------------------------------------------------- names of secrets

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")
_SECRET_WORDS = {"password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "authorization"}
_SECRET_WORDS |= {"credential", "credentials", "cookie", "cookies", "apikey", "apikeys"}
_KINDS_OF_KEY = {"api", "access", "secret", "private", "auth", "account", "master", "signing", "encryption"}
# Of a tokenizer; any other `..._token` is one that lets in.
_HARMLESS_TOKENS = {"bos", "eos", "pad", "unk", "mask", "sep", "cls", "start", "end", "stop", "special", "separator"}
_HARMLESS_TOKENS |= {"image", "video", "audio", "vision", "first", "next", "per", "think", "tool", "new"}
_HARMLESS_TOKENS |= {"prompt", "input", "output", "completion"}
_VARIABLE = re.compile(
    r"(API|ACCESS|SECRET|PRIVATE|AUTH|MASTER|SIGNING)_?KEY\d*$|(TOKEN|SECRET|PASSWORD|PASSWD)\d*$", re.I
)


def is_secret_name(name: str) -> bool:
    """Whether an option's name says that its value is secret: judge.api_key, headers.Authorization; not api_key_env."""
    return any(_says_secret(part) for part in re.split(r"[./@\s]", name))


@functools.lru_cache(maxsize=4096)
def _says_secret(part: str) -> bool:
    words = [w.lower() for w in _WORDS.findall(part)]
    if not words:
        return False
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    if last in ("key", "keys"):
        return before in _KINDS_OF_KEY
    return last in _SECRET_WORDS or last == "token" and before not in _HARMLESS_TOKENS


# ---------------------------------------------------------------------------------------------------- shapes of secrets

_NO_WORD = r"(?<![A-Za-z0-9_-])"  # before a key; a path or a longer name may hold the same letters
_KEY = re.compile(
    "|".join(
        (
            # OpenAI, Anthropic, DeepSeek, LiteLLM. "sk-" begins names too: a key has a long part without "-".
            r"(?<![A-Za-z0-9_/.-])sk-(?=[A-Za-z0-9_-]{0,60}[A-Za-z0-9]{16})[A-Za-z0-9_-]{20,400}",
            _NO_WORD + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
            _NO_WORD + r"(?:gh[pousr]_|hf_)[A-Za-z0-9]{30,300}",  # GitHub, Hugging Face
            _NO_WORD + r"(?:github_pat_|glpat-)[A-Za-z0-9_-]{20,300}",
            _NO_WORD + r"xox[abeoprs]-[A-Za-z0-9-]{10,300}",  # Slack
            _NO_WORD + r"(?:AIza|ya29\.)[A-Za-z0-9_-]{30,400}",  # Google
            _NO_WORD + r"(?:gsk_|r8_|pplx-|nvapi-|tvly-|[rs]k_live_)[A-Za-z0-9_-]{24,300}",  # Groq, Replicate, Stripe
            _NO_WORD + r"eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{0,2000}",  # a JWT
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[^-]{0,20000}-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
        )
    )
)
_BEARER = re.compile(r"\b(bearer\s+)(?=\S{0,200}\d)[A-Za-z0-9._~+/=-]{8,4000}", re.IGNORECASE)
# name:password@ in an address; a password may hold "/" or "#", and then stands where a port would.
_PASSWORD = re.compile(
    r"(?<![A-Za-z0-9+.-])([a-z][a-z0-9+.-]{1,30}://[^\s/@:?#'\"]{0,200}:)"
    r"(?!\d{1,5}(?:[/?#'\"\s]|$)|\$\{|\*\*\*@)([^\s@'\"]{1,500})@",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<![A-Za-z0-9+.-])((?:https?|wss?)://)(?!\*\*\*@)([^\s/@:?#'\"]{1,500})@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&;](?:[\w.-]{0,30}(?:api[_-]?key|token|secret|password|passwd|signature|credential)|key|sig|auth|pwd)=)"
    r"(?!\*\*\*|\$\{)[^&;#\s'\"]{1,2000}",
    re.IGNORECASE,
)
# `api_key: x` and "Authorization": "x" in a text: a YAML, a dump of headers, a message of a library. What stands after
# "/" is a path's, as in /etc/passwd: it goes by without a group.
_NAMED = re.compile(
    r"/[\w.-]+"
    r"|((?:api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|passw(?:or)?d|passphrase|secret|authorization"
    r"|(?:auth|access|refresh|session|bearer|hf|api)[_-]?token)[\"']?\s{0,4}[:=]\s{0,4})"
    r"(\"[^\"\n]{1,2000}\"|'[^'\n]{1,2000}'|(?:(?:bearer|basic|token)\s+)?[^\s,;&)}\]\"'({\[]{1,2000}(?![\w.]*[(\[]))",
    re.IGNORECASE,
)
# In `KeyError: 'hf_token': unexpected` a sentence goes on; in a YAML the name is the first on its line or in braces.
_WORD = re.compile(r"[a-z]{1,15}")
_OF_YAML = re.compile(r"(?:[{,\n]|^[ \t-])[\s-]*[\w.-]*$")
_NO_SECRET = re.compile(r"[\"']?(?:none|null|true|false|\?\?\?|(?:bearer\s+)?\*\*\*|)[\"']?", re.IGNORECASE)


def secret_in(text: str) -> Optional[str]:
    """What is secret in a value, whatever its option is called, such as "holds a password"; None where nothing is."""
    if "://" in text and (_PASSWORD.search(text) or _USER.search(text) or _QUERY.search(text)):
        return "holds a password"
    if _KEY.search(text) or _BEARER.search(text):
        return "looks like a key"
    # Of a longer value a part that is an ordinary word, such as a test's, may well be there by chance.
    held = ((name, value) for name, value in secrets_here() if value in text)
    known = next((name for name, value in held if value == text or _may_be_a_key(value)), None)
    return f"holds what the variable {known} holds" if known else None


def names_a_variable(text: str) -> bool:
    """False for a key given in a variable's place, which may well be made of the same letters."""
    return bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text)) and not _may_be_a_key(text)


def _may_be_a_key(text: str) -> bool:
    """By its letters: of a known shape, or with a part that no person made as a word."""
    return bool(_KEY.search(text)) or any(map(_is_random, re.split(r"[\W_]", text)))


def _is_random(word: str) -> bool:
    """Digits among letters, or as many capitals as small ones."""
    if len(word) < 16:
        return False
    changes = len(re.findall(r"(?<=\d)\D|(?<=\D)\d", word))
    upper = sum(c.isupper() for c in word) / len(word)
    return changes >= 3 or len(word) >= 20 and 0.4 < upper < 0.6


# -------------------------------------------------------------------------------------------------------------- masking

_named: set[str] = set()  # variables that options name


def know_variable(name: Optional[str]) -> None:
    """From now on the value of this variable is masked, whatever its name."""
    if name:
        _named.add(name)


def mask(text: str) -> str:
    """Text with *** in place of secrets: values of this process's variables, what looks like a key, and what a word
    before it calls one."""
    return _NAMED.sub(lambda m: m[1] + MASK if m[2] and _is_secret(m) else m[0], _mask_values(text))


def _is_secret(named: re.Match[str]) -> bool:
    """Whether what stands after a secret's name is the secret."""
    before = named.string[max(0, named.start() - 200) : named.start()]
    is_text = named[1].rstrip() != named[1] and ":" in named[1] and _WORD.fullmatch(named[2])
    return not _NO_SECRET.fullmatch(named[2]) and (not is_text or bool(_OF_YAML.search(before)))


def mask_option(name: str, value: Any) -> Any:
    """An option's value as it may be kept; *** where the option's name says that it is secret."""
    if not isinstance(value, str) or not value:
        return value
    return MASK if is_secret_name(name) else _mask_values(value)


def _mask_values(text: str) -> str:
    for _, value in secrets_here():
        text = blanked(text, value)
    text = _PASSWORD.sub(rf"\g<1>{MASK}@", text)
    text = _USER.sub(rf"\g<1>{MASK}@", text)
    text = _QUERY.sub(rf"\g<1>{MASK}", text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    return _KEY.sub(MASK, text)


def mask_file(file: Path) -> None:
    """Mask a log in its place, where there is one: who has it open to append goes on."""
    if not file.is_file():
        return
    with open(file, "r+", encoding="utf-8", errors="surrogateescape", newline="") as log:
        before = log.read()
        if (after := mask(before)) != before:
            log.seek(0)
            log.write(after)
            log.truncate()


def secrets_here() -> list[tuple[str, str]]:
    """(variable, secret) of the environment, the longest first: one may begin another."""
    found = {(name, secret) for name, value in os.environ.items() for secret in _secrets_of(name, value)}
    found |= {(name, os.environ[name].strip()) for name in _named & os.environ.keys()}
    return sorted(((n, v) for n, v in found if len(v) >= SHORTEST), key=lambda pair: (-len(pair[1]), pair))


@functools.lru_cache(maxsize=4096)
def _secrets_of(name: str, value: str) -> tuple[str, ...]:
    """Of a variable: its value by its name, or of any other `..._KEY`, such as a project's, by its letters; and the
    password of an address (of a store, of a proxy). The path of a file is none."""
    found = set()
    for match in _PASSWORD.finditer(value):
        user, password = unquote(match[1].partition("://")[2]), unquote(match[2])
        found |= {match[2], password, user + password}  # the last as HTTP sends it, in base64
    if _VARIABLE.search(name) or name.upper().endswith("KEY") and _may_be_a_key(value):
        if not (value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value))):
            found.add(value.strip())
    return tuple(found)


def blanked(text: str, secret: str) -> str:
    """Text with *** in place of one secret, however it is written there."""
    for form in _forms(secret) if len(secret) >= SHORTEST else ():
        text = text.replace(form, MASK)
    return text


@functools.lru_cache(maxsize=256)
def _forms(value: str) -> list[str]:
    """How a value may stand in a text: as it is, line by line, in an address, in Python or JSON, in base64."""
    data = value.encode("utf-8", "surrogateescape")
    forms = {value, quote(data), quote(data, safe=""), quote_plus(data), repr(value)[1:-1], json.dumps(value)[1:-1]}
    forms |= {base64.b64encode(data).decode().rstrip("="), *map(str.strip, value.splitlines())}
    return sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True)


# --------------------------------------------------------------------------------------------------------------- output


class _Masked:
    """A text stream that masks what is written to it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def masked_output() -> Iterator[None]:
    """What Python prints, logs and says of exceptions goes out masked."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Masked, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
