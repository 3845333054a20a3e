"""helpers/lessons/reading_notes/then_and_now.py against the installed vLLM."""

from helpers.lessons.reading_notes.then_and_now import (
    Change,
    default,
    has_argument,
    rejects,
    then_and_now,
)


def test_then_and_now_holds_for_the_installed_version():
    rows = then_and_now()
    assert len(rows) >= 15
    broken = [f"{r['topic']}: {r['seen']}" for r in rows if r["holds"] is False]
    assert not broken, broken
    assert {r["topic"] for r in rows if r["holds"] is None} == {
        "chunked prefill",
        "prefix caching",
        "KV-cache gauge",
    }


def test_a_check_that_fails_says_so_instead_of_passing(monkeypatch):
    """The table must be able to turn red: claim something false of this version."""
    wrong = (
        Change("a", "", "", rejects("EngineArgs", max_num_seqs=4)),
        Change("b", "", "", default("gpu_memory_utilization", 0.9)),
        Change("c", "", "", has_argument("swap_space")),
        Change("d", "", "", default("no_such_argument", 1)),
    )
    monkeypatch.setattr("helpers.lessons.reading_notes.then_and_now.CHANGES", wrong)
    assert [row["holds"] for row in then_and_now()] == [False] * 4
