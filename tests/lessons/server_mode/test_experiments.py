"""The experiments of notebook 5; those that ask a server are in tests/server/test_server.py."""

import subprocess
import time
from pathlib import Path

import pytest

from helpers.lessons.exercises import Answer
from helpers.lessons.server_mode import experiments
from helpers.server.load import LoadRun
from helpers.server.server import Server, ServerError
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import Disturbance


def test_warnings_are_those_that_came_since(tmp_path):
    log = tmp_path / "log"
    log.write_text("WARNING 11-26 19:00:00 [a.py:1] old\n")
    size = log.stat().st_size
    new = "(APIServer pid=1) WARNING 11-26 19:00:01 [b.py:75] ignored\nINFO 11-26 [c.py:2] fine\n"
    log.write_text(log.read_text() + new)
    gone = Server("http://127.0.0.1:9", "key", "m", log_path=log)
    assert experiments.warnings_since(gone, size) == ["ignored"]


def test_mean_in_system_weighs_by_time_while_there_are_requests():
    counts = ((0, 0, 0), (1, 0, 2), (3, 2, 2), (6, 2, 2), (7, 0, 0), (9, 5, 5))
    readings = [{"t_s": t, "running": r, "waiting": w} for t, r, w in counts]
    mean = experiments.mean_in_system(readings[:-1])
    assert mean == pytest.approx((2 * 3 + 3 * 4) / 5), "from 1 s to 6 s"
    nothing = experiments.mean_in_system(readings[:1])
    assert nothing != nothing


def test_a_load_that_others_slowed_is_made_once_more(monkeypatch):
    loads = [LoadRun({}, {}, {}, "", Disturbance(share, 0.0)) for share in (0.6, 0.3)]
    for make, once in ((experiments.steady_load, "run_load"), (experiments.at_rate, "_at_rate")):
        waiting = [*loads]
        monkeypatch.setattr(experiments, once, lambda *_, waiting=waiting, **__: waiting.pop(0))
        assert make(None, rate_per_s=1, requests=1) is loads[1]


def test_a_limit_is_recorded_beside_none():
    metrics = {"completed": 4.0, "failed": 6.0, "good_share": 0.2, "goodput_per_s": 1.0}
    metrics |= {"arrived_per_s": 20.0, "requests_per_s": 2.0}
    row = experiments.rate_row(metrics, "cannot tell", 5)
    assert (row["limit"], row["let in"], row["of these in time (%)"]) == ("5", 4, 50)
    assert experiments.rate_row(metrics, "held")["limit"] == "none"
    limited = {"sent": 10, "let in": 4, "in time": 2, "goodput/s": 1.0}
    free = {"sent": 10, "let in": 10, "in time": 1, "goodput/s": 0.5}
    burst = experiments.burst(limited, 5, free)
    assert (burst["goodput_per_s"], burst["without_goodput_per_s"]) == (1.0, 0.5)
    assert (burst["good_percent"], burst["without_percent"]) == (50, 10)


def test_readings_are_taken_while_the_block_runs():
    calls = []
    with experiments.readings_of(lambda: {"running": len(calls.append(1) or calls)}, 50) as rows:
        time.sleep(0.2)
    assert len(rows) >= 2 and [row["running"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["t_s"] > 0


ASKING = {
    "metrics": lambda gone: gone.metrics(),
    "curl": lambda gone: experiments.ask_with_curl(gone, "/v1/completions", {}),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_asking_a_server_that_has_ended_is_one_sentence(ask):
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = Server("http://127.0.0.1:9", "key", "m", process=ended, log_path=Path("server.log"))
    said = r"does not answer .*The server has ended: start it again. Its log: server.log"
    with pytest.raises(ServerError, match=said) as error:
        ask(gone)
    assert "\n" not in str(error.value)


def found(**changed):
    """Three measurements of each number, of a server without any noise."""
    plain = {
        "ttft_ms_p50": [50.0, 51.0, 49.0],
        "tpot_ms_p50": [2.5, 2.6, 2.4],
        "output_tokens_per_s": [900.0, 910.0, 890.0],
        "gap_ms": [100.0, 101.0, 102.0],
        "long_ttft_ms": [140.0, 150.0, 130.0],
        "again_x": [0.35, 0.36, 0.34],
    }
    return plain | changed


def test_one_rule_says_what_is_undecided():
    said = {
        (1.06, 1.2): ("larger", "1.06 to 1.20"),
        (1.01, 1.19): ("undecided", "undecided, 1.01 to 1.19"),
        (0.69, 0.97): ("smaller", "0.69 to 0.97"),
        (0.69, 0.972): ("undecided", "undecided, 0.69 to 0.97"),
        (0.97, 1.05): ("much the same", "0.97 to 1.05"),
    }
    for (low, high), expected in said.items():
        ratio = Gain((low * high) ** 0.5, low, high, 5)
        assert (experiments.direction(ratio), experiments.said_of(ratio)) == expected
    assert experiments.said_of(Gain(1.1, 0.01, 52.2, 5)) == "undecided"


def test_options_side_by_side_carry_the_range_of_their_ratio():
    slower = found(ttft_ms_p50=[180.0, 190.0, 185.0], gap_ms=[20.0, 200.0, 90.0])
    guessed = {name: Answer(name, "larger", "typed") for name in experiments.VARYING}
    compared = experiments.ratios(found(), slower)
    rows = experiments.side_by_side(found(), slower, compared, guessed)
    ttft, tpot, _, gap, _, again = rows
    assert ttft["number"].endswith("(ms)") and "ms" not in again["number"]
    assert (ttft["before"], ttft["after"]) == (50.0, 185.0)
    moved = [row["changed"] for row in rows]
    assert moved[2:4] == ["places", "tokens a step"], "a row is no state of its own"
    low, high = map(float, ttft["after / before (95 %)"].split(" to "))
    assert 3 < low < 3.7 < high < 4.5 and ttft["you said"] == "larger: right"
    assert tpot["you said"] == "larger: wrong"
    assert (gap["after / before (95 %)"], gap["you said"]) == ("undecided", "larger: undecided")
    assert (
        "you said" not in experiments.side_by_side(found(), slower, compared, {"gap_ms": None})[0]
    )


def test_a_time_of_0_decides_nothing_and_stops_nothing():
    """A client that came so late that it read a whole answer at once."""
    some, all_of_them = found(tpot_ms_p50=[0.0, 6.3, 6.4]), found(tpot_ms_p50=[0.0] * 3)
    assert experiments.ratios(found(), some)["tpot_ms_p50"].undecided
    assert experiments.said_of(experiments.ratios(found(), all_of_them)["tpot_ms_p50"]) == (
        experiments.UNDECIDED
    )
