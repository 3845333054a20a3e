"""The decision table: the student's measurements, or a sentence that there are none."""

from helpers.lessons.server_mode import decisions
from helpers.results import Results
from helpers.verdicts.gain import Gain


def test_without_measurements_every_row_says_so(tmp_path):
    store = Results("05_server_mode", tmp_path)
    found = decisions.evidence(store).values()
    assert all(decisions.NOT_MEASURED in measured for _, measured, _ in found)
    assert [row["what I would do"] for row in decisions.table(store)] == ["not decided yet"] * len(
        found
    )


def test_a_row_holds_what_was_measured_and_what_was_decided(tmp_path):
    store = Results("05_server_mode", tmp_path)
    ttft = Gain(1.6, 1.4, 1.9, 5).metrics("ttft_ms_p50_over_default_x")
    gap = Gain(2.0, 0.2, 20.0, 5).metrics("gap_ms_over_default_x")
    store.save("options", "changed", ttft | gap)
    store.save("burst", "at_the_limit", {"sent": 36, "limit": 18, "refused": 14})
    store.save("capacity", "open_loop", {"kept_up_per_s": 95.0})
    store.save("sizing", "copies", {"arrivals_per_s": 60.0, "good_share": 0.95})
    measured = {key: said for key, (_, said, _) in decisions.evidence(store).items()}
    assert "TTFT: 1.40 to 1.90 times; TPOT: not measured yet" in measured["places"]
    assert "longest gap in a stream: cannot tell;" in measured["chunks"]
    assert "of 36 requests at once, a limit of 18 refused 14" in measured["admission"]
    assert "the goal held up to 60/s; the server kept up with 95/s" in measured["load"]
    store.save("decision", "load", {}, choice="Load of one copy", measured=measured["load"])
    store.save("answer", "decision_load", {}, text="50 a second, for the chat", source="typed")
    [row] = [row for row in decisions.table(store) if row["choice"] == "Load of one copy"]
    assert row["what I would do"] == "50 a second, for the chat"
    store.save("sizing", "copies", {"arrivals_per_s": 95.0})  # later, on a busier machine
    assert "the goal held at no rate tried" in decisions.evidence(store)["load"][1]
