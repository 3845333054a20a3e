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
    gap = Gain(2.0, 0.2, 15.0, 5).metrics("gap_ms_over_default_x")
    tokens = Gain(0.5, 0.4, 0.6, 4).metrics("output_tokens_per_s_over_default_x")
    store.save("options", "changed", ttft | gap | tokens)
    burst = {"sent": 192, "limit": 18, "let_in": 70}
    burst |= {"good_percent": 90, "without_percent": 0}
    burst |= {"goodput_per_s": 31.5, "without_goodput_per_s": 0.0}
    store.save("burst", "at_most", burst)
    store.save("capacity", "closed_loop", {"answered_per_s": 96.0})
    held = {"arrivals_per_s": 60.0, "good_share": 0.95}
    store.save("sizing", "copies", held | {"missed_per_s": 75.0})
    found = decisions.evidence(store)
    measured = {key: said for key, (_, said, _) in found.items()}
    assert "TTFT: 1.40 to 1.90 times as long; TPOT: not measured yet; " in measured["places"]
    assert measured["places"].endswith("output tokens/s: 0.40 to 0.60 times as many")
    assert "with 4 places against a place for each" in measured["places"]
    assert "longest gap in a stream: undecided, 0.20 to 15.00 times as long;" in measured["chunks"]
    assert "a limit of 18 let 70 in, and 90 % of these met the goal" in measured["admission"]
    assert "without a limit 0 % did" in measured["admission"]
    assert measured["load"] == (
        "of a capacity of 96/s the goal held at 60/s, was missed at 75/s, and is open between "
        "them; overloaded, with a limit of 18, 31.5/s came in time"
    )
    store.save("decision", "load", {}, choice="Load of one copy", measured=measured["load"])
    store.save("answer", "decision_load", {}, text="50 a second, for the chat", source="typed")
    [row] = [row for row in decisions.table(store) if row["choice"] == "Load of one copy"]
    assert row["what I would do"] == "50 a second, for the chat"
    store.save("sizing", "copies", {"missed_per_s": 95.0})  # later, on a busier machine
    assert "the goal held at no rate tried" in decisions.evidence(store)["load"][1]
