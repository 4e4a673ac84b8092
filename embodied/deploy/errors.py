"""The error of a user's mistake, and the helper that names the nearest valid choice."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from a user: one line that names the field, what was expected and the nearest valid choice."""


def nearest(word: str, choices: Iterable[object]) -> str:
    """The clause "did you mean '...'?" or the list of valid choices, for error messages."""
    names = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(names)}"
