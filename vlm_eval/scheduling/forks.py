"""A run's process: a new Python, or a fork of one that has the imports behind it.

vLLM takes 5 to 20 s to import, as long as a small run takes. So one process of a sweep imports it, never touches CUDA,
and every run that wants the same environment is forked from there.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import IO, Any, Mapping, NoReturn, Optional, Protocol, Sequence

from vlm_eval.scheduling import parent

LARGEST = 2**17  # bytes of one message: an environment is most of it
# Of an environment, what is read when it is used, not when something is imported: it may differ from run to run.
READ_LATE = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR")


class Process(Protocol):
    """A run's process: what it says comes on `stdout`, what it is told goes to `stdin`."""

    pid: int
    stdin: IO[str]
    stdout: IO[str]

    def wait(self, timeout: Optional[float] = None) -> int: ...

    def poll(self) -> Optional[int]: ...


def start_anew(run_dir: Path, log: IO[bytes], environment: Mapping[str, str]) -> Process:
    """A process of its own Python, in its own group: a signal reaches its children too, and Ctrl-C only us."""
    return subprocess.Popen(
        [sys.executable, "-m", "vlm_eval.run", str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**environment, parent.NAMED: str(os.getpid())},
        encoding="utf-8",
        start_new_session=True,
    )


class Forks:
    """The process that runs are forked from, as the sweep sees it. Made in the sweep's main thread: it ends with it."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str], log: Path):
        self._environment, self._log = _compared(environment), log
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        with open(log, "ab") as out:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "vlm_eval.scheduling.forks", *modules],
                stdin=theirs,
                stdout=out,
                stderr=out,
                env={**environment, parent.NAMED: str(os.getpid())},
                start_new_session=True,
            )
        theirs.close()
        self._asking = threading.Lock()
        self._begun: Optional[Future] = None
        self._ends: dict[int, Future] = {}
        threading.Thread(target=self._listen, name="forks", daemon=True).start()

    def start(self, run_dir: Path, log: IO[bytes], environment: Mapping[str, str]) -> Process:
        """A fork, where one will do: it has the environment that the imports were made in, and their process lives."""
        if self._environment != _compared(environment):
            return start_anew(run_dir, log, environment)
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        try:
            with self._asking:
                self._begun = Future()
                message = json.dumps({"run_dir": str(run_dir), "environment": dict(environment)}).encode()
                socket.send_fds(self._ours, [message], [in_read, out_write, log.fileno()])
                pid, end = self._begun.result()
        except OSError as error:  # it has died or cannot fork, or the environment is too large for a message
            os.close(in_write)
            os.close(out_read)
            print(f"{run_dir.name}: not forked, imports anew: {error}", file=sys.stderr)
            return start_anew(run_dir, log, environment)
        finally:
            os.close(in_read)
            os.close(out_write)
        return _Fork(pid, end, os.fdopen(in_write, "w", encoding="utf-8"), os.fdopen(out_read, encoding="utf-8"))

    def close(self) -> None:
        """Ends the process; what was forked from it has ended, or is told to."""
        self._ours.shutdown(socket.SHUT_RDWR)
        try:
            self._server.wait(1)
        except subprocess.TimeoutExpired:  # at its imports, which nobody wants any more
            self._server.kill()
            self._server.wait()
        self._ours.close()
        if self._log.stat().st_size == 0:
            self._log.unlink()

    def _listen(self) -> None:
        while message := self._received():
            if "began" in message:
                self._ends[message["began"]] = Future()
                self._begun.set_result((message["began"], self._ends[message["began"]]))
            elif "refused" in message:
                self._begun.set_exception(OSError(message["refused"]))
            else:
                self._ends.pop(message["ended"]).set_result(message["code"])
        # The kernel has told its children to end; how they did, nobody can say any more.
        for end in self._ends.values():
            end.set_result(1)
        if self._begun and not self._begun.done():
            self._begun.set_exception(OSError("the process that runs are forked from has died"))

    def _received(self) -> Optional[dict[str, Any]]:
        try:
            data = self._ours.recv(LARGEST)
        except OSError:
            return None
        return json.loads(data) if data else None


class _Fork:
    """A forked run, with as much of Popen's face as is needed."""

    def __init__(self, pid: int, end: Future, stdin: IO[str], stdout: IO[str]):
        self.pid, self.stdin, self.stdout, self._end = pid, stdin, stdout, end

    def wait(self, timeout: Optional[float] = None) -> int:
        try:
            return self._end.result(timeout)
        except NotYet as error:
            raise subprocess.TimeoutExpired("run", timeout or 0) from error

    def poll(self) -> Optional[int]:
        return self._end.result() if self._end.done() else None


def _compared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in READ_LATE}


# ------------------------------------------------------------------------------------- in the process that is forked


def serve(modules: Sequence[str]) -> NoReturn:
    """Import, then fork a run for each message on the socket that stands at stdin, until nobody is there any more."""
    import gc
    import importlib
    import warnings

    parent.end_with_parent()
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:  # the run that needs it will say so
            traceback.print_exc()
    # The one other thread is an allocator's, which sees to it itself that a fork finds its locks free.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    gc.collect()
    gc.freeze()  # what is here is shared with the forks as long as nobody writes to it
    children = selectors.DefaultSelector()
    children.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in children.select():
            if key.fileobj is control:
                _fork(control, children)
            else:
                children.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(key.data, 0)
                control.send(json.dumps({"ended": key.data, "code": os.waitstatus_to_exitcode(status)}).encode())


def _fork(control: socket.socket, children: selectors.BaseSelector) -> None:
    message, handles, _, _ = socket.recv_fds(control, LARGEST, 3)
    if not message:
        os._exit(0)
    sys.stdout.flush()
    sys.stderr.flush()
    me = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:  # no memory, or no more processes, for now: those that run go on
        for handle in handles:
            os.close(handle)
        control.send(json.dumps({"refused": str(error)}).encode())
        return
    if pid == 0:
        try:
            for key in list(children.get_map().values()):  # the socket too
                os.close(key.fd)
            children.close()
            _be_a_run(json.loads(message), handles, me)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for handle in handles:
        os.close(handle)
    try:
        os.setpgid(pid, pid)  # here too: whoever hears of it may send its group a signal
    except (PermissionError, ProcessLookupError):
        pass  # it did it itself, or has ended
    control.send(json.dumps({"began": pid}).encode())
    children.register(os.pidfd_open(pid), selectors.EVENT_READ, data=pid)


def _be_a_run(message: Mapping[str, Any], handles: Sequence[int], started_by: int) -> NoReturn:
    import tempfile

    from vlm_eval import run

    os.setpgid(0, 0)
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(message["environment"])
    os.environ[parent.NAMED] = str(started_by)
    tempfile.tempdir = None  # looked up again
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    run.end(run.main(message["run_dir"]))


if __name__ == "__main__":
    from vlm_eval import secrets

    with secrets.masked_output():
        serve(sys.argv[1:])
