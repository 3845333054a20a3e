"""The decision table: the student's measurements, or a sentence that there are none."""

from helpers.lessons.server_mode import decisions
from helpers.results import Results
from helpers.verdicts.gain import Gain


def test_without_measurements_every_row_says_so(tmp_path):
    store = Results("05_server_mode", tmp_path)
    found = decisions.evidence(store).values()
    assert all(decisions.NOT_MEASURED in measured and not says for _, measured, says, _ in found)
    assert [row["what I would do"] for row in decisions.table(store)] == ["not decided yet"] * len(
        found
    )


def test_a_row_holds_what_was_measured_and_what_was_decided(tmp_path):
    store = Results("05_server_mode", tmp_path)
    ttft = Gain(1.6, 1.4, 1.9, 5).metrics("ttft_ms_p50_over_default_x")
    gap = Gain(2.0, 0.2, 20.0, 5).metrics("gap_ms_over_default_x")
    store.save("options", "changed", ttft | gap)
    burst = {"sent": 192, "limit": 18, "let_in": 70, "refused": 122}
    burst |= {"good_percent": 90, "without_percent": 0}
    burst |= {"goodput_per_s": 23.3, "promised_percent": 90}
    store.save("burst", "on_average", burst)
    store.save("burst", "at_most", burst | {"limit": 25, "let_in": 80, "good_percent": 35})
    store.save("capacity", "open_loop", {"answered_per_s": 96.0})
    store.save("sizing", "copies", {"arrivals_per_s": 60.0, "good_share": 0.95})
    found = decisions.evidence(store)
    measured = {key: said for key, (_, said, _, _) in found.items()}
    says = {key: said for key, (_, _, said, _) in found.items()}
    assert "TTFT: 1.40 to 1.90 times; TPOT: not measured yet" in measured["places"]
    assert "longest gap in a stream: undecided;" in measured["chunks"]
    assert "a limit of 18 let 70 in, and 90 % of these met the goal" in measured["admission"]
    assert "a limit of 25 let 80 in, and 35 % of these" in measured["admission"]
    assert "without a limit 0 % did" in measured["admission"]
    assert says["admission"].startswith("Only the limit of 18 kept the promise, 90 %, to those")
    assert "the goal held up to 60/s; the server answered up to 96/s" in measured["load"]
    assert says["load"] == "The goal held up to 62 % of what one copy answers."
    chance = {"arrivals_per_s": 60.0, "good_share": 0.91, "by_chance": 1.0, "safer_per_s": 48.0}
    store.save("sizing", "copies", chance)
    _, load, load_says, _ = decisions.evidence(store)["load"]
    assert "up to 60/s, which may be chance; the server" in load
    assert load_says.endswith(
        "answers, which may be chance; by at least two standard errors up to 50 %."
    )
    assert says["places"] == "" and says["chunks"] == "", "half of each was not measured"
    long_ttft = Gain(1.0, 0.99, 1.02, 5).metrics("long_ttft_ms_over_default_x")
    store.save("options", "changed", ttft | gap | long_ttft)
    assert decisions.evidence(store)["chunks"][2] == (
        "With smaller steps, the stop of those who read: undecided; the long prompt's wait: much "
        "the same."
    )
    store.save("burst", "on_average", burst | {"good_percent": 79})
    assert decisions.evidence(store)["admission"][2] == (
        "Neither limit kept the promise, 90 %, to those it let in. One run each makes neither of "
        "them the better one."
    )
    store.save("burst", "on_average", burst)
    store.save("burst", "at_most", burst | {"limit": 25})
    assert decisions.evidence(store)["admission"][2].startswith("Each limit kept the promise")
    store.save("decision", "load", {}, choice="Load of one copy", measured=measured["load"])
    store.save("answer", "decision_load", {}, text="50 a second, for the chat", source="typed")
    [row] = [row for row in decisions.table(store) if row["choice"] == "Load of one copy"]
    assert row["what I would do"] == "50 a second, for the chat"
    store.save("sizing", "copies", {"arrivals_per_s": 95.0})  # later, on a busier machine
    assert "the goal held at no rate tried" in decisions.evidence(store)["load"][1]
