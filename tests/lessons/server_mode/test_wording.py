"""Sentences of notebook 5 that depend on what was measured."""

import os

import pytest

from helpers.engine.steps import RecordedRequest, Step, Steps, Work
from helpers.lessons.server_mode import wording
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain


@pytest.mark.parametrize(
    "api_s, cores, share, said",
    [
        (5.5, 16, 0.64, "filled its core"),
        (0.4, 2, 0.64, "3 processes shared 2 cores"),
        (0.4, 16, 0.64, "No process was short of a core"),
        (5.5, 16, 1.0, "what it cost is within the range"),
        (5.5, 16, 1.3, "one process does both in turn"),
    ],
)
def test_why_a_server_differs_depends_on_the_machine(monkeypatch, api_s, cores, share, said):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    used_s = {"client (this kernel)": 2.5, "API server": api_s, "engine": 1.8}
    gain = Gain(share, 0.97 * share, 1.025 * share, 3)
    sentence = wording.why_server_differs(gain, used_s, 5.67)
    assert said in sentence and gain.sentence() in sentence
    assert ("--api-server-count" in sentence) == (said == "filled its core")
    assert ("shared" in sentence) == ("shared" in said)


def test_a_server_is_no_slower_than_the_range_says(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    used_s = {"client (this kernel)": 2.5, "API server": 0.4, "engine": 1.8}
    sentence = wording.why_server_differs(Gain(0.7, 0.4, 1.2, 3), used_s, 5.67)
    assert "undecided, 0.40 to 1.20 times as fast" in sentence
    assert "started later" not in sentence, "no reason for what was not seen"


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
    assert "TTFT: 14.15 to 15.72 times as long; TPOT: no difference that this run can see" in said
    assert "running streams: this run cannot tell (medians 39.1 and 44.6 ms)" in said
    assert "the long prompt's TTFT: shorter, 0.7" in said
    assert "comes again: no difference" in said and "disturbed" not in said


def test_a_gain_without_a_cache_is_called_a_disturbance():
    said = " ".join(wording.trades(options(), options(again_ms=[60.0, 61.0, 61.5])))
    assert "nothing can act there: the machine was disturbed" in said


@pytest.mark.parametrize(
    "rates, said",
    [
        ({100: 10, 112: 50}, "100 arrivals a second gave 90 answers a second; the closed loop 93"),
        ({100: 10, 112: 32}, "112 it fell behind (TTFT grew 3.2 times, the limit is 3)"),
        ({100: 29, 112: 50}, "kept up (TTFT grew 2.9 times, the limit is 3), with 112"),
        ({100: 10, 112: 50}, "100 arrivals a second the server kept up, with 112 it fell behind:"),
        ({20: 50}, "fell behind at every rate"),
        ({60: 10}, "kept up with every rate tried, up to 60"),
    ],
)
def test_the_capacity_is_said_as_it_was_found(rates, said):
    rows = [
        {"offered_per_s": rate, "requests_per_s": 0.9 * rate}
        | {"ttft_ms_first_third": 10, "ttft_ms_last_third": last}
        for rate, last in rates.items()
    ]
    assert said in wording.capacity(rows, 93).replace("loop gave", "loop")


@pytest.mark.parametrize("ratio, said", [(None, ""), (1.05, ""), (1.5, "later"), (0.7, "sooner")])
def test_the_peak_is_explained_in_the_direction_in_which_it_missed(ratio, said):
    sentence = wording.why_peak(ratio)
    assert said in sentence and bool(sentence) == bool(said)


def test_a_goal_that_was_missed_at_less_load_is_no_effect_of_load():
    rows = [
        {"offered_per_s": rate, "good_share": share, "disturbed": ""}
        for rate, share in ((18.5, 0.98), (37.0, 0.87), (55.6, 0.97), (90.0, 0.2))
    ]
    said = wording.open_loop(rows, {"ttft": 44}, rows[2], 0.9)
    assert "Fewer met it at 37 a second, although less load makes nobody wait longer" in said
    assert "Fewer met it" not in wording.open_loop([rows[0], *rows[2:]], {"ttft": 44}, rows[2], 0.9)


def test_an_overload_says_how_many_waited():
    run = {"offered_per_s": 150.0, "requests_per_s": 101.0, "good_share": 0.12}
    said = wording.overload(run, [{"waiting": 3}, {"waiting": 40}], {"ttft": 44})
    assert "Of 150 arrivals a second 101 were answered and up to 40 requests waited" in said
    assert "12 % met the goal (TTFT 44 ms)" in said
    assert "no reading found a request that waited" in wording.overload(run, [], {"ttft": 44})


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
    read = Step(0.03, 0.07, 64, 3, 20, {0: work, 1: Work(8, True, 0, 0, 0, 1)}, ())
    said = wording.steps_with_prompts(Steps(steps.requests, [*steps.steps, read]))
    assert "10.0 ms with no prompt, 40.0 ms with 1 prompt: everybody" in said


def test_who_ended_a_stopped_server_is_told_as_it_was():
    def report(how, code):
        return StopReport(3.1, how, 4, code, ())

    assert "killed it after 3 s" in wording.how_it_stopped(report("aborted", 137))
    assert "ended by itself with exit code 0" in wording.how_it_stopped(report("aborted", 0))
    assert "no requests left to give up" in wording.how_it_stopped(report("idle", 0))
