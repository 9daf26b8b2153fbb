"""Pieces of Markdown that several pages are made of."""

import sys


def line(values: list[str]) -> str:
    return "| " + " | ".join(values) + " |"


def split(text: str, start: str, end: str) -> tuple[str, str, str]:
    """What is before, between and after two markers."""
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        sys.exit(f"expected one {start} followed by one {end}")
    before, rest = text.split(start)
    inside, after = rest.split(end)
    return before, inside, after
