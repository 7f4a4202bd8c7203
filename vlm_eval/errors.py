"""Errors as users meet them: the one that is theirs to mend, and any other as one line."""


class BadInput(Exception):
    """What was asked for cannot start. One line: what is wrong, where, and the way out (exit code 2)."""


def one_line(error: BaseException, most: int = 300) -> str:
    """Its class and its words, at most so many characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:most]
