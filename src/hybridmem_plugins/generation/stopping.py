"""Stop strings of any length, found the same way in streamed and in whole text."""

from __future__ import annotations

from collections.abc import Sequence


def check_stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return stop strings as a tuple.

    Raises:
        TypeError: An entry is no string.
        ValueError: An entry is empty, which would stop before the first token.
    """
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for string in strings:
        if not isinstance(string, str):
            msg = f"stop takes strings, not {type(string).__name__}."
            raise TypeError(msg)
        if not string:
            msg = "A stop string is empty. Remove it from `stop`."
            raise ValueError(msg)
    return strings


def first_stop(text: str, stop: Sequence[str]) -> int:
    r"""Return where the earliest stop string begins in `text`, or -1.

    >>> first_stop("one\\n\\ntwo Question: x", ["Question:", "\\n\\n"])
    3
    """
    found = [position for position in (text.find(string) for string in stop) if position >= 0]
    return min(found, default=-1)


def safe_length(text: str, stop: Sequence[str]) -> int:
    r"""Return how many characters of `text` can be shown although more text will follow.

    The end is held back while it may be the beginning of a stop string, or of a character whose bytes are still
    incomplete (shown as U+FFFD by the tokenizer).

    >>> safe_length("The end\\n", ["\\n\\n"])
    7
    """
    held = len(text)
    while held and text[held - 1] == "\ufffd":
        held -= 1
    for string in stop:
        for size in range(min(len(string) - 1, held), 0, -1):
            if text.endswith(string[:size], 0, held):
                held -= size
                break
    return held
