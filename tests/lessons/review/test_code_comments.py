"""What is counted of a student's file, and that before and after are kept apart."""

import pytest

from helpers.lessons.review import code_comments
from helpers.results import Results

BEFORE = """
def run(n):
    latency = n
    tokens_per_s = 1 / latency
    return tokens_per_s
"""
AFTER = '''
def run(n):
    """Tokens per second of n requests."""
    # One pass, since ...
    latency_ms = n
    tokens_per_s = 1 / latency_ms
    return tokens_per_s
'''


def test_docstrings_comments_and_names_without_a_unit_are_counted():
    before, after = code_comments.counted(BEFORE), code_comments.counted(AFTER)
    assert [*before.values()] == [1, 0, 0, 1]
    assert [*after.values()] == [1, 1, 1, 0]


def test_the_first_run_is_before_and_stays_it(tmp_path, capsys):
    store, mine = Results("01_review", tmp_path), tmp_path / "mine.py"
    for text in (BEFORE, AFTER, AFTER):
        mine.write_text(text)
        code_comments.before_and_after(store, str(mine))
    record = store.get("code_comments", "mine.py")
    assert record["before"] == code_comments.counted(BEFORE)
    assert record["after"] == code_comments.counted(AFTER)
    assert store.get("checklist", "code_docs") is None, "counting is not done by a person"


@pytest.mark.parametrize("text", [None, "def broken(:"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, capsys, text):
    path = tmp_path / "mine.py"
    if text:
        path.write_text(text)
    code_comments.before_and_after(Results("01_review", tmp_path), str(path))
    assert "cannot be read as Python" in capsys.readouterr().out
