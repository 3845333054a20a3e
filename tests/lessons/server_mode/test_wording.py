"""Sentences of notebook 5 that depend on what was measured."""

from types import SimpleNamespace

import pytest

from helpers.engine.steps import RecordedRequest, Step, Steps, Work
from helpers.lessons.server_mode import wording
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain


def test_why_a_server_differs_is_told_by_its_steps():
    times = {"ttft_ms_p50": 517.0, "tpot_ms_p50": 13.3, "e2e_ms_p50": 1142.0}
    load = SimpleNamespace(metrics=times)
    alone = SimpleNamespace(
        metrics={"ttft_ms_p50": 249.0, "tpot_ms_p50": 16.4, "e2e_ms_p50": 1020.0},
        timeline=[{}] * 49,
    )
    work = Work(96, True, 0, 0, 0, 1)
    requests = [RecordedRequest(0.0, 96)] * 64
    steps = [
        Step(begin, begin + 0.019, 4096, 9, 20, {i: work for i in range(n)}, ())
        for begin, n in ((0.0, 1), (0.02, 64))
    ]

    def sentence(gain, steps=steps):
        return wording.why_server_differs(gain, alone, load, Steps(requests, steps))

    said = sentence(Gain(0.88, 0.8, 0.97, 3))
    assert "TTFT 517 ms against 249, TPOT 13.3 ms against 16.4" in said
    assert "first step worked for 1 of 64 requests" in said
    assert "made 2 steps, the notebook's 49, and computed for 97 %" in said
    assert said.endswith("So it hardly waited for HTTP there.")
    apart = [steps[0], Step(0.5, 0.519, 4096, 9, 20, {0: work}, ())]
    assert "hardly" not in sentence(Gain(0.88, 0.8, 0.97, 3), apart)
    undecided = sentence(Gain(0.7, 0.4, 1.2, 3))
    assert "undecided, 0.40 to 1.20 times as fast" in undecided
    assert "first step" not in undecided, "no reason for what was not seen"


@pytest.mark.parametrize("api_s, filled", [(0.4, False), (5.5, True)])
def test_an_api_server_that_fills_its_core_is_named(api_s, filled):
    used_s = {"client (this kernel)": 2.5, "API server": api_s, "engine": 5.8}
    said = wording.cpu_shares(used_s, 5.67)
    assert said.startswith("CPU seconds in these 5.67 s: client (this kernel) 2.50, API server")
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
    assert "TTFT: 14.15 to 15.72 times as long; TPOT: no difference that this run can see" in said
    assert "running streams: this run cannot tell (medians 39.1 and 44.6 ms)" in said
    assert "the long prompt's TTFT: shorter, 0.7" in said
    assert "comes again: no difference" in said and "disturbed" not in said


def test_a_gain_without_a_cache_is_called_a_disturbance():
    said = " ".join(wording.trades(options(), options(again_ms=[60.0, 61.0, 61.5])))
    assert "nothing can act there: the machine was disturbed" in said


@pytest.mark.parametrize("ratio, said", [(None, ""), (1.05, ""), (1.5, "later"), (0.7, "sooner")])
def test_the_peak_is_explained_in_the_direction_in_which_it_missed(ratio, said):
    sentence = wording.why_peak(ratio)
    assert said in sentence and bool(sentence) == bool(said)


def test_a_goal_that_was_missed_at_less_load_is_no_effect_of_load():
    rows = [
        {"offered_per_s": rate, "good_share": share, "disturbed": ""}
        for rate, share in ((18.5, 0.98), (37.0, 0.87), (55.6, 0.97), (90.0, 0.2))
    ]
    said = wording.open_loop(rows, {"ttft": 44}, 0.9)
    assert "The goal is TTFT 44 ms. It was met by 98 % at 18.5, 87 % at 37, 97 % at 55.6" in said
    assert "Less load makes nobody wait longer" in said
    assert "Less load" not in wording.open_loop([rows[0], *rows[2:]], {"ttft": 44}, 0.9)


def test_an_overload_says_how_many_waited():
    run = {"offered_per_s": 150.0, "requests_per_s": 101.0, "good_share": 0.12}
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
    said = wording.limited(m)
    assert "a limit of 20 let 83 in, and 87 % of these met the goal" in said
    assert said.endswith("without a limit 0 % did")


def test_a_start_is_told_beside_a_recorded_one():
    here, there = {"load vLLM": 6.2, "load the weights": 0.3}, {"load vLLM": 10.9, "compile": 13.1}
    said = wording.startup([("measured", here, 8.0), ("recorded: H100", there, 43.1)])
    assert said == (
        "Measured: of 8.0 s, 6.2 s were spent on: load vLLM. "
        "Recorded: of 43.1 s, 13.1 s were spent on: compile."
    )
