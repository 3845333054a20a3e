"""A person's or a model's text, shown as it was typed: line breaks, lists, <tags>, $, Markdown.

Everything that is shown of such a text goes through here, so none of it is markup and none runs.
"""

from __future__ import annotations

import html
import re

BREAK = "<br>"  # a line break inside one line of Markdown; the only HTML in our documents
# An underscore inside a word is none to any reader of Markdown.
_MARKUP = re.compile(r"([\\`*$<>\[\]~|&]|(?<![^\W_])_|_(?![^\W_]))")
_AT_START = re.compile(r"^(\s*)([#+\-=]|\d+(?=[.)](\s|$)))", re.M)


def in_html(text: str) -> str:
    """As HTML. A dollar has an element of its own: two in a row would be typeset as a formula."""
    escaped = html.escape(_plain(text).strip("\n"))
    return escaped.replace("$", "<span>$</span>").replace("\n", "<br>")


def in_markdown(text: str) -> str:
    """As one line of Markdown."""
    lines = [line.strip() for line in _plain(text).strip().splitlines()]
    return BREAK.join(_marked(line) for line in lines)


def out_of_markdown(text: str) -> str:
    """What was typed, from what `in_markdown` made of it; ordinary Markdown stays as it is."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text.replace(BREAK, "\n"))


def _marked(line: str) -> str:
    escaped = _MARKUP.sub(r"\\\1", line)
    first = _AT_START.match(line)
    if first and first[2].isdigit():  # "1." would begin a list
        return re.sub(r"^(\d+)", r"\1\\", escaped, count=1)
    return f"\\{escaped}" if first else escaped


def _plain(text) -> str:
    return str(text).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
