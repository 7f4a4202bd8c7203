"""The process that started this one: which it is, and that this one ends with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

import psutil

NAMED = "VLM_EVAL_PARENT"  # the variable that names, to a run's process, the one that reads what it says
PR_SET_PDEATHSIG = 1


def end_with_parent() -> bool:
    """SIGTERM to this process when its parent dies, were it by SIGKILL: nobody would wait for it (Linux: prctl(2)).

    Whether there is one that is told of the progress, and answers; not where a person starts a run's module."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if is_orphan():  # it died before that
        os._exit(128 + signal.SIGTERM)
    return NAMED in os.environ


def is_orphan() -> bool:
    """Whether the process that this one was started by, and leads a group of its own for, is gone."""
    return NAMED in os.environ and int(os.environ[NAMED]) != os.getppid()


def end_own_group() -> None:
    """SIGKILL to all others of the group that this process leads; none where it leads none."""
    me = os.getpid()
    for pid in psutil.pids() if os.getpgrp() == me else ():
        with suppress(ProcessLookupError, PermissionError):
            if pid != me and os.getpgid(pid) == me:
                os.kill(pid, signal.SIGKILL)
