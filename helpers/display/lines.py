"""Printed lines that fit a page: a notebook breaks longer ones within a word."""

import textwrap
from collections.abc import Iterable

LINE = 100  # characters


def wrapped(text: str, indent: str = "") -> str:
    """The text, its longer lines broken between words. indent: what the rest of one begins with."""
    how = {"width": LINE, "subsequent_indent": indent, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, **how) for line in text.split("\n"))


def listed(sentences: Iterable[str]) -> str:
    """Sentences as a list to print."""
    return "\n".join(wrapped(f"- {sentence}", indent="  ") for sentence in sentences)
