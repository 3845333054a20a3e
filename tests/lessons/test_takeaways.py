"""Takeaways: one to four sentences, shown as typed."""

import pytest

from helpers.lessons.takeaways import takeaways


def test_they_are_a_list(capsys):
    takeaways("TTFT was 3 ms.", "A <b> stays a <b>.")
    assert capsys.readouterr().out == "Take away:\n- TTFT was 3 ms.\n- A <b> stays a <b>.\n"


@pytest.mark.parametrize("count", [0, 5])
def test_no_more_than_four(count):
    with pytest.raises(ValueError, match="one to 4"):
        takeaways(*["x"] * count)
