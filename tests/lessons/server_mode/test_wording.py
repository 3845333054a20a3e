"""Sentences of notebook 5 that depend on what was measured."""

from types import SimpleNamespace

import pytest

from helpers.engine.steps import RecordedRequest, Step, Steps, Work
from helpers.lessons.server_mode import experiments, wording
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain


@pytest.mark.parametrize("gain", [Gain(0.88, 0.8, 0.97, 3), Gain(0.7, 0.4, 1.2, 3)])
def test_a_server_that_was_not_measured_in_turn_shows_no_cost_of_http(gain):
    said = wording.why_server_differs(gain)
    assert gain.sentence() in said and "no cost of HTTP can be read from it" in said


@pytest.mark.parametrize("api_s, filled", [(0.4, False), (5.5, True)])
def test_an_api_server_that_fills_its_core_is_named(api_s, filled):
    used_s = {"client (this kernel)": 2.5, "API server": api_s, "engine": 5.8}
    said = wording.cpu_shares(used_s, 5.67, requests=100)
    assert said.startswith("CPU time of a request, in ms: client (this kernel) 25.0, API server")
    assert ("--api-server-count" in said) == filled


def test_why_clients_share_a_step_is_told_by_their_times():
    names = ("clients", "output_tokens_per_s", "e2e_ms_mean", "ttft_ms_mean")
    rows = [
        dict(zip(names, row, strict=True)) for row in ((1, 225, 213, 17.7), (8, 1051, 316, 61.5))
    ]
    said = wording.why_gain(rows, 8)
    assert "it is 4.67" in said and "103 ms longer with 8 clients than with one: 44 ms" in said
    assert wording.why_gain(rows[1:], 8) == "", "nobody was alone"


def options(**changed):
    """What `experiments.options` returns, three values of what varies."""
    plain = {
        "ttft_ms_p50": [50.0, 51.0, 49.0],
        "tpot_ms_p50": [6.4, 6.5, 6.3],
        "gap_ms": [39.1, 55.0, 30.0],
        "long_ttft_ms": [80.0, 81.0, 82.0],
        "first_ms": [80.0, 81.0, 82.0],
        "again_ms": [32.0, 32.5, 32.1],
    }
    return plain | changed


def test_trades_claim_nothing_that_the_range_does_not_carry():
    two = options(
        ttft_ms_p50=[747.0, 740.0, 750.0],
        tpot_ms_p50=[6.35, 6.45, 6.3],
        gap_ms=[44.6, 36.0, 60.0],
        long_ttft_ms=[60.0, 61.0, 62.0],
        again_ms=[80.0, 81.5, 81.6],
    )
    said = "\n".join(wording.trades(options(), two))
    assert "12 requests at once: 14.15 to 15.72 times as long." in said
    assert "TPOT of those 12: no difference of more than 10 % (" in said
    assert "beside a long prompt: undecided, 0." in said
    assert "TTFT of that long prompt: 0.7" in said
    assert "without: no difference" in said and "disturbed" not in said


def test_a_gain_without_a_cache_is_called_a_disturbance():
    said = " ".join(wording.trades(options(), options(again_ms=[60.0, 61.0, 61.5])))
    assert "nothing can act there: the machine was disturbed" in said


def test_the_peak_is_explained_by_what_the_clients_saw():
    m = {"completed": 190.0, "failed": 2.0, "in_flight_last": 137.0}
    run = SimpleNamespace(metrics=m, answers=[{"latency_s": 0.61}])
    assert wording.why_peak(run, 32.9, 1.28, 64) == (
        "When the last request came, 55 of 192 had been answered by the clients' count; the "
        "formula assumes 33, the first of them after 1.28 s. It came after 0.61 s. "
        "With all 64 places taken, 73 were left to wait; the dashboard looks only 8 times a second."
    )


def test_a_goal_that_was_missed_at_less_load_is_no_effect_of_load():
    rows = [
        {"arrived_per_s": rate, "good_share": share, "disturbed": ""}
        for rate, share in ((18.5, 0.98), (37.0, 0.87), (55.6, 0.97), (90.0, 0.2))
    ]
    said = wording.open_loop(rows, {"ttft": 44}, 0.9)
    assert "The goal is TTFT 44 ms. It was met by 98 % at 18.5, 87 % at 37, 97 % at 55.6" in said
    assert "Less load makes nobody wait longer" in said
    assert "Less load" not in wording.open_loop([rows[0], *rows[2:]], {"ttft": 44}, 0.9)


def test_an_overload_says_how_many_waited():
    run = {"arrived_per_s": 150.0, "requests_per_s": 101.0, "good_share": 0.12}
    run |= {"completed": 190, "failed": 2}
    said = wording.overload(run, [{"waiting": 3}, {"waiting": 40}], {"ttft": 44})
    assert "150 requests arrived a second. 190 of 192 were answered, 101 a second" in said
    assert "In between up to 40 requests waited" in said
    assert "12 % met the goal (TTFT 44 ms)" in said
    assert "no reading found one that waited" in wording.overload(run, [], {"ttft": 44})


def test_arrivals_are_said_as_they_were_recorded():
    work = Work(1, False, 0, 0, 0, 1)
    both = Step(0.02, 0.03, 64, 3, 20, {0: work, 1: work}, ())
    steps = Steps(
        [RecordedRequest(0.0, 8), RecordedRequest(0.01, 8)],
        [Step(0.0, 0.01, 64, 1, 20, {0: work}, ()), both],
    )
    said = wording.arrivals(steps)
    assert "up to 2 of 2 requests shared a step; half of them waited 5.0 ms or less" in said
    # Without their queue they stay 30 and 10 ms: 4 places answer 4 in 20 ms.
    assert wording.most_answers(steps, 4, 100).endswith("200 answers a second; 100 arrive.")
    assert "300 arrive: the queue would grow" in wording.most_answers(steps, 4, 300)
    at_once = Steps(steps.requests[:1], steps.steps[:1])
    assert wording.arrivals(at_once).endswith("shared a step; nobody waited for a place.")
    late = Steps([*steps.requests[:1] * 2, steps.requests[1]], [
        Step(0.0, 0.01, 64, 2, 20, {0: work, 1: work}, ()),
        Step(0.02, 0.03, 64, 3, 20, {2: work}, ()),
    ])  # fmt: skip
    said = wording.arrivals(late)
    assert "half of them did not wait for a place, the others up to 10.0 ms" in said
    assert "more than 2 of the 64 tokens that it may: the budget held nobody" in wording.budget(
        steps
    )
    short = Step(0.0, 0.01, 64, 1, 20, {0: Work(64, True, 0, 0, 0, 1)}, ())
    assert "used all of its 64 tokens" in wording.budget(Steps(steps.requests, [short]))
    read = Step(0.03, 0.07, 64, 3, 20, {0: work, 1: Work(8, True, 0, 0, 0, 1)}, ())
    said = wording.steps_with_prompts(Steps(steps.requests, [*steps.steps, read]))
    assert "10.0 ms with no prompt, 40.0 ms with 1 prompt: everybody" in said


def test_who_ended_a_stopped_server_is_told_as_it_was():
    def report(how, code):
        return StopReport(3.1, how, 4, code, ())

    assert "they hung" in wording.how_it_stopped(report("aborted", 137))
    assert "killed it after 3 s" in wording.how_it_stopped(report("aborted", 137))
    assert "ended by itself with exit code 0" in wording.how_it_stopped(report("aborted", 0))
    assert "no requests left to give up" in wording.how_it_stopped(report("idle", 0))


def test_a_limit_is_told_by_whom_it_let_in():
    m = {"sent": 192.0, "limit": 20, "let_in": 83.0, "good_percent": 87.0, "without_percent": 0.0}
    said = wording.limited(m | {"goodput_per_s": 23.31})
    assert "a limit of 20 let 83 in, and 87 % of these met the goal, 23.3 a second;" in said
    assert said.endswith("without a limit 0 % did")


def test_a_start_is_told_beside_a_recorded_one():
    here, there = {"load vLLM": 6.2, "load the weights": 0.3}, {"load vLLM": 10.9, "compile": 13.1}
    said = wording.startup([("measured", here, 8.0), ("recorded: H100", there, 43.1)])
    assert said == (
        "Measured: of 8.0 s, 6.2 s were spent on: load vLLM. "
        "Recorded: of 43.1 s, 13.1 s were spent on: compile."
    )


def test_a_time_of_0_decides_nothing_and_stops_nothing():
    """A client that came so late that it read a whole answer at once."""
    some, all_of_them = options(tpot_ms_p50=[0.0, 6.3, 6.4]), options(tpot_ms_p50=[0.0] * 3)
    assert experiments.ratios(options(), some)["tpot_ms_p50"].undecided
    assert experiments.said_of(experiments.ratios(options(), all_of_them)["tpot_ms_p50"]) == (
        experiments.UNDECIDED
    )
