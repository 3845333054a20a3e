"""helpers/lessons/reading_notes/pricing.py: which speed is priced."""

import pytest

from helpers.lessons.reading_notes import pricing, wording
from helpers.results.store import Results


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    return Results("03_reading_notes", tmp_path)


def test_throughput_prefers_the_best_of_notebook_1(store):
    assert pricing.throughput_on_record(store) is None
    store.save("continuous_batching", "continuous", {"output_tokens_per_s": 100.0})
    assert pricing.throughput_on_record(store)[0] == 100
    Results("01_review", store.directory).save(
        "baseline", "one_at_a_time", {"output_tokens_per_s": 50.0}
    )
    assert pricing.throughput_on_record(store) == (50.0, "notebook 1, one request at a time")
    Results("01_review", store.directory).save("optimised", "best", {"output_tokens_per_s": 400.0})
    assert pricing.throughput_on_record(store) == (400.0, "notebook 1, best configuration")


def test_a_recorded_7b_is_priced_unless_the_own_machine_is_asked_for(store):
    speed, source = pricing.throughput(store, "here")
    assert source.startswith("recorded: NVIDIA H100"), "nothing was measured here yet"
    store.save("continuous_batching", "continuous", {"output_tokens_per_s": 90_000.0})
    assert pricing.throughput(store, "here")[0] == 90_000
    assert pricing.throughput(store, "recorded") == (speed, source)
    assert "7B" in source and 1_000 < speed < 50_000
    assert (
        "256 requests at once (one run), prompts of 256 and answers of 128 tokens, TPOT" in source
    )
    with pytest.raises(ValueError, match="'here'"):
        pricing.throughput(store, "mine")


def test_an_api_that_is_cheaper_than_a_full_machine_is_never_reached():
    said = wording.price((0.5, 2.0), {0.1: 10.0, 10.0: 0.1})
    assert "at 0.1 never, at 10 when busy 10 % of the hours" in said
