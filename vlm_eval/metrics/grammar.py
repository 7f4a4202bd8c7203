"""Who looks for mistakes in Russian: LanguageTool on this machine or at an address, else pylat-ru.

pylat-ru (https://github.com/bojlahg/pylat_ru) is LanguageTool's Russian rules in Python, without Java and download.
LanguageTool comes through language-tool-python, with two things done here instead: its own start of a server tries 900
ports for 15 seconds each where Java fails, and what a server says of itself is thrown away.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Callable, Iterator, Optional, Sequence

from vlm_eval.errors import BadInput

BACKENDS = ("auto", "local", "remote", "pylat")
EXTRA = "pip install 'vlm-eval[grammar]'"

REACH_S = 10  # for a server to say which languages it knows
START_S = 60  # for LanguageTool to start: seconds on a fast disk, more on a cold one
ANSWER_S = 60  # for one text; language-tool-python asks twice
GIVE_UP = 3  # texts in a row without a connection, and the server is not asked any more

DIRECTLY = {"http": ""}  # to this machine itself past a proxy that the environment names

# Half of a UTF-16 pair cannot be sent, and a word that touches a control character is not looked at.
UNSENDABLE = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# pylat-ru 0.1.0a0 counts these twice in the places of RU_UNPAIRED_BRACKETS; no rule cares which emoji it is.
BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")

log = logging.getLogger(__name__)


class CannotCheck(Exception):
    """Why a text was not checked, in one line. `unreached`: there was nobody to ask."""

    def __init__(self, why: object, unreached: bool = False):
        super().__init__(" ".join(str(why).split())[:300])
        self.unreached = unreached


@dataclass(frozen=True)
class Mistake:
    """What a rule found at text[start:end]. Rules and categories have LanguageTool's ids, whoever checks."""

    rule: str
    category: str
    start: int
    end: int


class Checker:
    """`name` says which program counts, with its version; None where there is none."""

    def __init__(self, name: Optional[str], ask: Callable[[str], list[Mistake]]):
        self.name = name
        self._ask = ask
        self._unreached: list[str] = []

    def mistakes(self, text: str) -> list[Mistake]:
        """In the order of the text; CannotCheck where there is no knowing."""
        if len(self._unreached) >= GIVE_UP:
            raise CannotCheck(f"not asked any more: {self._unreached[-1]}")
        try:
            found = self._ask(UNSENDABLE.sub(" ", text))  # one for one: the places stay
        except CannotCheck as error:
            self._unreached = [*self._unreached, str(error)] if error.unreached else []
            raise
        self._unreached = []
        return sorted(found, key=lambda mistake: (mistake.start, mistake.end))


def choose(backend: str, remote_server: Optional[str]) -> str:
    """local, remote or pylat, whichever can work here as far as seconds can tell; BadInput where none can."""
    if backend not in BACKENDS:
        raise BadInput(f"metrics.language.backend={backend}: it is one of {', '.join(BACKENDS)}")
    if remote_server and backend not in ("auto", "remote"):
        raise BadInput(f"metrics.language.remote_server={remote_server}: not asked under backend={backend}; drop one")
    if backend == "remote" and not remote_server:
        raise BadInput("metrics.language.backend=remote: needs remote_server, e.g. http://localhost:8081")
    if remote_server:
        if why := _why_not_remote(remote_server):
            raise BadInput(
                f"metrics.language.remote_server={remote_server}: {why}; start LanguageTool there, or leave it out"
            )
        return "remote"
    if backend == "pylat":
        if not _has("pylat_ru"):
            raise BadInput(f"metrics.language.backend=pylat: pylat-ru is not installed: {EXTRA}")
        return "pylat"
    why = _why_not_local()
    if not why:
        return "local"
    if backend == "local":
        raise BadInput(f"metrics.language.backend=local: {why}; or take backend=pylat")
    if not _has("pylat_ru"):
        raise BadInput(f"metrics.language: {why}; and pylat-ru, which needs no Java, is not installed: {EXTRA}")
    _say_once(f"language: grammar is checked by pylat-ru in place of LanguageTool: {why}")
    return "pylat"


@contextmanager
def opened(backend: str, remote_server: Optional[str]) -> Iterator[Checker]:
    """A checker ready to work, for as long as the block runs. Where there is none, a Checker that says why."""
    with ExitStack() as stack:
        yield _open(backend, remote_server, stack)


def _open(backend: str, remote_server: Optional[str], stack: ExitStack) -> Checker:
    try:
        kind = choose(backend, remote_server)
        if kind == "remote":
            return _language_tool(remote_server, "remote")
        if kind == "pylat":
            return _pylat()
    except (BadInput, CannotCheck) as error:
        return _nobody(error)
    try:
        return _language_tool(stack.enter_context(_own_server()), "local")
    except CannotCheck as error:
        if backend == "local" or not _has("pylat_ru"):
            return _nobody(error)
        _say_once(f"language: grammar is checked by pylat-ru in place of LanguageTool: {error}")
    try:
        return _pylat()
    except CannotCheck as error:
        return _nobody(error)


def _nobody(why: Exception) -> Checker:
    def ask(text: str) -> list[Mistake]:
        raise CannotCheck(why)

    return Checker(None, ask)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@functools.lru_cache(maxsize=None)
def _say_once(sentence: str) -> None:
    log.warning(sentence)


# ------------------------------------------------------------------------------------------------------------- pylat-ru


@functools.cache  # takes a second to make, and keeps what it looked up
def _pylat_tool() -> Any:
    from pylat_ru import LanguageToolRU

    return LanguageToolRU()


def _pylat() -> Checker:
    try:
        tool = _pylat_tool()
    except Exception as error:  # a broken installation has many ways
        raise CannotCheck(f"pylat-ru does not start: {_plain(error)}") from error

    def ask(text: str) -> list[Mistake]:
        try:
            found = tool.check(BEYOND_BMP.sub("☺", text))
        except Exception as error:  # young software: one text that it stumbles over must not end the run
            raise CannotCheck(f"pylat-ru failed: {_plain(error)}") from error
        return [Mistake(m.rule_id, m.category_id, m.offset, m.offset + m.length) for m in found]

    return Checker(f"pylat-ru {metadata.version('pylat-ru')}", ask)


# --------------------------------------------------------------------------------------------------------- LanguageTool


def _base(server: str) -> str:
    """An address as language-tool-python wants it: it puts v2/ in place of what stands behind the last slash."""
    address = server if "://" in server else f"http://{server}"
    return address.rstrip("/").removesuffix("/v2") + "/"


def _why_not_remote(server: str) -> Optional[str]:
    if not _has("language_tool_python"):
        return f"language-tool-python is not installed: {EXTRA}"
    import requests

    try:
        answer = requests.get(f"{_base(server)}v2/languages", timeout=REACH_S)
        answer.raise_for_status()
        codes = {language["longCode"] for language in answer.json()}
    except (requests.HTTPError, requests.JSONDecodeError, TypeError, KeyError) as error:
        return f"what answers there is no LanguageTool ({type(error).__name__}: {error})"
    except (requests.RequestException, ValueError) as error:
        return f"cannot be reached ({_plain(error)})"
    return None if "ru-RU" in codes else "knows no Russian"


def _why_not_local() -> Optional[str]:
    """Java and its version, and a jar that is there or can still be downloaded; nothing is downloaded or started."""
    if not _has("language_tool_python"):
        return f"language-tool-python is not installed: {EXTRA}"
    from language_tool_python.download_lt import LocalLanguageTool, confirm_java_compatibility

    try:
        confirm_java_compatibility()
    except ModuleNotFoundError:
        return "no java on PATH; LanguageTool needs Java 17 or later"
    except (SystemError, SystemExit, OSError, subprocess.CalledProcessError) as error:  # SystemExit: unknown version
        return f"{' '.join(str(error).split())} (java -version); LanguageTool needs Java 17 or later"
    here = LocalLanguageTool.from_version_name()
    try:
        here.get_jar_path()
    except OSError as error:
        # In both cases language-tool-python does not download, and then does not find.
        if os.environ.get("LTP_JAR_DIR_PATH"):
            return "LTP_JAR_DIR_PATH is set, and with it language-tool-python finds no jar; set LTP_PATH alone"
        if not isinstance(error, FileNotFoundError):
            return f"the folder for LanguageTool cannot be used: {_plain(error)}"
        if here in LocalLanguageTool.get_installed_versions():
            return f"{here.get_directory_path()} has no jar in it; delete it, so that it is downloaded again"
    return None


@contextmanager
def _own_server() -> Iterator[str]:
    """LanguageTool's server in a Java process of its own, at the address yielded; downloaded first if need be."""
    from language_tool_python.download_lt import LocalLanguageTool

    here = LocalLanguageTool.from_version_name()
    try:
        here.download()
        port = _free_port()
        command = here.get_server_cmd(port)
    except (Exception, SystemExit) as error:  # the network's, the disk's, Java's, the zip file's
        raise CannotCheck(f"LanguageTool cannot be had: {_plain(error)}") from error
    with tempfile.TemporaryFile() as said:
        try:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        except OSError as error:
            raise CannotCheck(f"LanguageTool cannot be started: {error}") from error
        try:
            _wait_for(server, f"http://127.0.0.1:{port}/v2/healthcheck", said)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(server: subprocess.Popen, address: str, said: Any) -> None:
    import requests

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said.seek(0)
            last = (said.read().decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
            raise CannotCheck(f"LanguageTool ended at its start with exit code {server.returncode}: {last}")
        try:
            if requests.get(address, timeout=2, proxies=DIRECTLY).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise CannotCheck(f"LanguageTool did not answer within {START_S} seconds of its start")


def _language_tool(server: str, where: str) -> Checker:
    """`where` is local or remote; what the server calls itself is asked of it."""
    import requests
    from language_tool_python import LanguageTool
    from language_tool_python.exceptions import LanguageToolError

    class Client(LanguageTool):
        """Keeps the last answer whole: it names the software, and says where the server gave up on a text."""

        _TIMEOUT = ANSWER_S
        answer: Any = None

        def _query_server(self, *arguments: Any, **more: Any) -> Any:
            self.answer = super()._query_server(*arguments, **more)
            return self.answer

    def ask(text: str) -> list[Mistake]:
        try:
            found = client.check(text)
            warnings = client.answer.get("warnings") or {}
        except LanguageToolError as error:
            unreached = isinstance(error.__cause__, (requests.ConnectionError, requests.Timeout))
            what = f"cannot be reached: {_plain(error.__cause__)}" if unreached else f"refused the text: {error}"
            raise CannotCheck(f"LanguageTool ({where}) {what}", unreached) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            said = str(client.answer)[:100]
            raise CannotCheck(f"LanguageTool ({where}) gave an answer of another kind: {said}") from error
        if warnings.get("incompleteResults"):
            raise CannotCheck(f"LanguageTool ({where}) did not finish the text")
        return _in_code_points(text, found)

    try:
        client = Client("ru-RU", remote_server=_base(server), proxies=DIRECTLY if where == "local" else None)
    except (LanguageToolError, AttributeError, TypeError, ValueError) as error:
        raise CannotCheck(f"LanguageTool ({where}) cannot be used: {_plain(error.__cause__ or error)}") from error
    ask("Проверка связи.")
    software = client.answer.get("software") or {}
    return Checker(f"{software.get('name', 'unknown')} {software.get('version', 'unknown')} ({where})", ask)


def _in_code_points(text: str, matches: Sequence[Any]) -> list[Mistake]:
    """language-tool-python turns a match's offset from UTF-16 units into code points, but not its length."""
    found = []
    for match in matches:
        units = text[match.offset :].encode("utf-16-le")[: 2 * match.error_length]
        end = match.offset + len(units.decode("utf-16-le", "replace"))
        found.append(Mistake(match.rule_id, match.category, match.offset, end))
    return found


def _plain(error: BaseException) -> str:
    """The innermost error in words: what requests wraps around it names its own objects and little else."""
    while (inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = inner
    return " ".join(f"{type(error).__name__}: {error}".split())
