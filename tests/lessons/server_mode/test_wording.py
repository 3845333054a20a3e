"""Sentences of notebook 5 that depend on what was measured."""

from types import SimpleNamespace

import pytest

from helpers.engine.steps import RecordedRequest, Step, Steps, Work
from helpers.lessons.server_mode import experiments, wording
from helpers.server.server import StopReport
from helpers.verdicts.gain import Gain


def test_a_server_that_was_not_measured_in_turn_says_so():
    gain = Gain(0.88, 0.8, 0.97, 3)
    said = wording.why_server_differs(gain)
    assert gain.sentence() in said and "the range would not tell" in said


@pytest.mark.parametrize(
    "api_s, engine_s, found",
    [
        (0.4, 5.8, "The engine kept a core busy nearly all the time, so it set the pace"),
        (5.5, 5.8, "`--api-server-count` starts more of them"),
        (0.4, 2.0, "Neither the API server nor the engine filled a core."),
    ],
)
def test_the_process_that_fills_its_core_is_named(api_s, engine_s, found):
    used_s = {"client (this kernel)": 2.5, "API server": api_s, "engine": engine_s}
    said = wording.cpu_shares(used_s, 5.67, requests=100)
    assert said.startswith("CPU time of a request, in ms: client (this kernel) 25.0, API server")
    assert f"API server {100 * api_s / 5.67:.0f} %, engine" in said and found in said


def test_why_clients_share_a_step_is_told_by_their_times():
    alone, many = [
        [{"e2e_ms_mean": all_ms, "ttft_ms_mean": first_ms}] * 3
        for all_ms, first_ms in ((213, 17.7), (316, 61.5))
    ]
    said = wording.why_gain({1: alone, 8: many}, 8)
    assert "103 ms longer with 8 clients than with one (means), 44 ms of it" in said
    assert "that of 3 pairs in turn, not of the figure's runs" in said
    assert "longer" not in wording.why_gain({1: many, 8: alone}, 8), "the many did not wait longer"


def test_trades_claim_nothing_that_the_range_does_not_carry():
    larger, smaller, unclear = Gain(3.0, 2.5, 3.6, 4), Gain(0.2, 0.1, 0.3, 4), Gain(1, 0.5, 2, 4)
    open_ones = dict.fromkeys(experiments.VARYING, unclear)
    assert wording.trades(open_ones | {"ttft_ms_p50": larger, "gap_ms": smaller}) == (
        "Who waits less, by these ranges: readers of a stream beside a long prompt. Who waits "
        "longer instead: the 10 for their first token."
    )
    assert wording.trades(open_ones).count("nobody") == 2


def test_the_peak_is_explained_by_what_clients_and_engine_counted():
    metrics = {"completed": 190.0, "failed": 2.0, "in_flight_last": 137.0}
    run = SimpleNamespace(metrics=metrics, last_sent_s=5.0)
    view = SimpleNamespace(before=lambda moment_s: {"running": 60.0, "waiting": 10 * moment_s})
    said = wording.why_peak(run, view, 32.9)
    assert "lets 33 be answered when the last request is sent" in said
    assert "The clients counted 55 answers by then, so 137 were under way." in said
    assert "found 60 running and 50 waiting. The other 27 were on their way" in said
    metrics["in_flight_last"] = 100.0
    assert wording.why_peak(run, view, 32.9).endswith("so 100 were under way.")


def test_what_was_tried_is_told_and_nothing_between():
    assert wording.tried(0.6, 1.02) == "held at 0.6, missed at 1.02"
    assert wording.tried(0.0, None) == "held at none tried, missed at none above"
    assert wording.plan(24, 10) == ("24 copies are enough by these runs, so plan 24; 9 are too few")
    assert wording.plan(None, 1) == (
        "it is open how many copies are enough, and no number is known to be too few"
    )


def test_a_command_by_hand_is_one_that_a_shell_takes():
    command = "KEY=... vllm bench serve " + " ".join(f"--option-{i} {i}" for i in range(12))
    said = wording.by_hand(command)
    lines = said.splitlines()
    assert len(lines) > 1 and all(len(line) <= 92 for line in lines)
    assert said.replace("\\\n", "").split() == command.split()


def test_more_clients_are_told_by_what_they_add():
    eight, many = (
        {"clients": n, "output_tokens_per_s": tokens, "e2e_ms_mean": ms}
        for n, tokens, ms in ((8, 1128.0, 337.0), (32, 2237.0, 679.0))
    )
    assert wording.one_more_level(eight, many) == (
        "  8 to  32 clients: 1.98 times the tokens, 2.01 times the time of an answer"
    )


def test_a_rate_is_told_with_its_verdict_its_range_and_both_counts():
    row = {"arrived_per_s": 17.0, "good_share": 0.98, "completed": 49.0, "failed": 1.0}
    row |= {"verdict": "cannot tell", "goodput_per_s": 15.72}
    said = wording.at_rate(row, (0.899, 0.997), 15.7)
    assert said == (
        "  17/s:  98 % of  50 in time (90 to 100 %): cannot tell. Goodput 15.7/s, as the "
        "benchmark counts"
    )
    assert wording.at_rate(row, (0.899, 0.997), 15.5).endswith("15.5/s, by the benchmark 15.7/s")


def test_a_stop_is_told_as_a_part_of_the_long_prompt():
    assert wording.stopped_for(211, 353) == (
        "The stream stopped for 211 ms at most; the first token of the long prompt came after "
        "353 ms: 142 ms of these (40 %) lie outside the stop."
    )
    assert wording.stopped_for(360, 353).endswith("353 ms, sooner than the stream went on.")


def test_places_are_judged_by_what_the_clients_waited():
    few, many = (
        SimpleNamespace(metrics={"ttft_ms_p90": ttft, "tpot_ms_p90": 5.25})
        for ttft in (458.0, 20.0)
    )
    assert wording.with_places(few, many, (4, 64)) == (
        "p90 of the 16 at their clients, one run each: with 4 places and 256 tokens a step TTFT "
        "458 ms, TPOT 5.2 ms; "
        "with 64 places TTFT 20 ms, TPOT 5.2 ms."
    )


def test_a_cut_stream_is_known_by_its_last_word_only():
    def row(client, outcome, error=""):
        row = {"client": client, "outcome": outcome, "client library says": error}
        return row | {"chunks received": 9, "last chunk after s": 0.175, "ended after s": 0.19}

    late = row("latecomer", "connection reset", "ReadError")
    cut = [row(f"{i}", "ended by 'abort'") for i in range(4)]
    by_itself, killed = (StopReport(3.1, "aborted", 4, code, ()) for code in (0, 137))
    said = wording.ends([*cut, late], killed)
    assert said.startswith("0 of 4 streams were complete. 4 ended by 'abort' (their finish_reason)")
    assert "reported no error" in said and "knew 15 to 15 ms" in said
    assert wording.ends([row("1", "complete"), late], killed) == "1 of 1 streams were complete."
    broken = [row("1", "broken off", "RemoteProtocolError"), late]
    assert wording.ends(broken, by_itself) == (
        "0 of 1 streams were complete. 1 broke off with an error of the client library. The "
        "clients knew 15 to 15 ms after the last chunk."
    )
    broken[0]["ended after s"] = 3.25
    said = wording.ends(broken, killed)
    assert "nothing came for up to 3.1 s, until this notebook's kill" in said
    assert said.endswith("a client needs a read timeout of its own."), "no finding of vLLM's"


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
    assert said.startswith("Up to 2 of 2 requests shared a step. No request waited longer")
    # Without their queue they stay 30 and 10 ms: 4 places answer 4 in 20 ms.
    assert wording.most_answers(steps, 4, 100).endswith("200 answers a second; 100 arrive.")
    late = Steps([*steps.requests[:1] * 2, RecordedRequest(0.01, 8)], [
        Step(0.0, 0.01, 64, 2, 20, {0: work, 1: work}, ()),
        Step(0.04, 0.05, 64, 3, 20, {2: work}, ()),
    ])  # fmt: skip
    assert wording.arrivals(late).endswith(
        "Request 2 is the first that waited longer than 20 ms for a place."
    )
    read = Step(0.03, 0.07, 64, 3, 20, {0: work, 1: Work(8, True, 0, 0, 0, 1)}, ())
    said = wording.steps_with_prompts(Steps(steps.requests, [*steps.steps, read]))
    assert "10.0 to 10.0 ms with no prompt (n = 2), 40.0 to 40.0 ms with one (n = 1)" in said


def test_who_ended_a_stopped_server_is_told_as_it_was():
    def report(how, code):
        return StopReport(3.1, how, 4, code, ())

    assert "with 4 requests in it" in wording.how_it_stopped(report("aborted", 137))
    killed = wording.how_it_stopped(report("aborted", 137))
    assert "did not end by itself: this notebook killed it 3.1 s after" in killed
    by_itself = wording.how_it_stopped(report("aborted", 0))
    assert "in 3.1 s, without waiting for its requests" in by_itself and "code 0" in by_itself
    assert "with nothing to do" in wording.how_it_stopped(report("idle", 0))


def test_one_goal_without_the_other_is_told_by_who_met_it():
    assert wording.one_goal_only([1, 2, 3], [8, 9]) == (
        "Without a limit 3 (the middle one was arrival 2) were in time by TTFT, 2 (the middle one "
        "was arrival 8) by TPOT, and 0 by both."
    )
    assert "limit 0 were in time by TTFT" in wording.one_goal_only([], [8])


def test_a_limit_is_told_by_whom_it_let_in():
    m = {"sent": 192.0, "limit": 20, "let_in": 83.0, "good_percent": 87.0, "without_percent": 0.0}
    m |= {"goodput_per_s": 17.7, "without_goodput_per_s": 0.0}
    said = wording.limited(m)
    assert "a limit of 20 let 83 in, and 87 % of these met the goal; without a limit 0 %" in said
    assert said.endswith("(goodput 17.7 against 0/s)")
    run = {"completed": 83.0, "ttft_ms_mean": 68.4}
    grown = {"request_queue_time_seconds_sum": 0.166, "request_prefill_time_seconds_sum": 1.66}
    assert wording.why_limited(run, grown) == (
        "Of a client's mean TTFT of 68 ms, 2 went by in the engine's queue, 20 in the steps that "
        "read the prompt, and 46 outside the engine; where there, was not measured."
    )


def test_a_start_is_told_beside_a_recorded_one():
    here, there = {"load vLLM": 6.2, "load the weights": 0.3}, {"load vLLM": 10.9, "compile": 13.1}
    said = wording.startup([("measured", here, 8.0), ("recorded: H100", there, 43.1)])
    assert said == (
        "Measured: of 8.0 s, 6.2 s were spent on: load vLLM. "
        "Recorded: of 43.1 s, 13.1 s were spent on: compile."
    )
