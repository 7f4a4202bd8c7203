"""The one exception that is the user's to mend."""


class BadInput(Exception):
    """What was asked for cannot start. One line: what is wrong, where, and the way out (exit code 2)."""
