"""Errors as users meet them: the one that is theirs to mend, and any other as one line."""

from vlm_eval.secrets import mask


class BadInput(Exception):
    """What was asked for cannot start. One line: what is wrong, where, and the way out (exit code 2)."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """One line that shows what stands in it: names and values come from elsewhere, and a line feed, a control
    sequence of a terminal or a letter that is not seen would hide what is wrong."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException, most: int = 300) -> str:
    """Its class and its words, at most so many characters; keys are masked, for it goes to files and to MLflow."""
    return mask(f"{type(error).__name__}: {' '.join(str(error).split())}")[:most]
