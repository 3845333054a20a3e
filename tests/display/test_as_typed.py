"""What a person types comes out as typed, in HTML and in Markdown, and never runs."""

import html
import re

import mistune
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.display.as_typed import in_html, in_markdown, out_of_markdown
from helpers.run import summary

TYPED = [
    "two\nlines",
    "- a list\n- of two\n1. and one\n2) more",
    "# no heading",
    "<script>alert(1)</script> <!-- gone? --> <think>hm</think>",
    "$2 an hour against $10, $$x$$",
    "*stars*, _lines_, __init__, `code`, ~~no~~, [a](javascript:b), ![p](q)",
    "a | b, 5 < 6 & 7 > 2, &lt; C:\\new",
    "___ stays",
    "--- \n===",
    "https://example.org/a_b_c",
    "<br> typed",
]


def read(page: str) -> str:
    """What a reader sees of a page."""
    text = re.sub(r"<br ?/?>\n?", "\n", page)
    return html.unescape(re.sub(r"<[^>]+>", "", text)).strip("\n")


@pytest.mark.parametrize("text", TYPED)
@pytest.mark.parametrize("line", ["- Key challenge: {}", "1. {}", "| {} | x |\n|---|---|"])
def test_a_text_in_a_document_is_seen_as_it_was_typed(text, line):
    seen = read(summary.from_markdown(line.format(in_markdown(text))))
    typed = "\n".join(part.strip() for part in text.splitlines())
    assert typed in seen, f"{seen!r}"
    assert "___" not in in_markdown(text), "typed underscores are no open blank"


@pytest.mark.parametrize("text", TYPED)
def test_a_text_in_a_card_is_seen_as_it_was_typed(text):
    page = in_html(text)
    assert read(page) == text
    assert not re.search(r"\$[^<]", page), "a dollar is alone in its element"


def test_nothing_of_it_is_markup_for_another_reader_of_markdown():
    import markdown

    for text in TYPED:
        page = markdown.markdown("x " + in_markdown(text), extensions=["tables"])
        assert not re.search(r"<(?!/?p>|br>)", page), page


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])))
def test_what_was_typed_is_found_again(text):
    assert out_of_markdown(in_markdown(text)) == text.strip()


def test_a_page_obeys_no_html_but_line_breaks():
    page = summary.from_markdown("a<br>b <img src=x onerror=y>\n\n<script>z</script>")
    assert "a<br>b" in page and "<img" not in page and "<script" not in page
    assert mistune.escape("<img") in page


def test_a_number_at_the_start_is_escaped_only_where_it_would_begin_a_list():
    assert in_markdown("3.04 CPU seconds") == "3.04 CPU seconds"
    assert in_markdown("3. CPU seconds") == "3\\. CPU seconds"
