"""Errors of normkit's functions in the words of the caller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def in_the_words_of(function: str, arguments: Mapping[str, str]) -> Iterator[None]:
    """Name `function` and its arguments in a normkit error: both check the same things, and one of them is enough.

    Args:
        function: what the caller called.
        arguments: normkit's argument → the caller's.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        _, separator, text = str(error).partition(": ")
        if not separator:
            raise
        for ours, theirs in arguments.items():
            text = text.replace(f"`{ours}`", f"`{theirs}`")
        raise type(error)(f"{function}: {text}") from None
