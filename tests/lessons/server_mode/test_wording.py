"""Sentences of notebook 5 that depend on what was measured."""

import os

import pytest

from helpers.lessons.server_mode import wording
from helpers.server.server import StopReport


@pytest.mark.parametrize(
    "api_s, cores, share, said",
    [
        (5.5, 16, 0.64, "filled its core"),
        (0.4, 2, 0.64, "3 processes shared 2 cores"),
        (0.4, 16, 0.64, "No process was short of a core"),
        (5.5, 16, 1.0, "cost next to nothing"),
        (5.5, 16, 1.3, "one process does both in turn"),
    ],
)
def test_why_a_server_differs_depends_on_the_machine(monkeypatch, api_s, cores, share, said):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    used_s = {"client (this kernel)": 2.5, "API server": api_s, "engine": 1.8}
    sentence = wording.why_server_differs(share, used_s, 5.67)
    assert said in sentence
    assert ("--api-server-count" in sentence) == (said == "filled its core")
    assert ("shared" in sentence) == ("shared" in said)


def test_trades_claim_nothing_within_20_percent():
    one = {
        "ttft_ms_p50": 50.0,
        "tpot_ms_p50": 6.4,
        "gap_ms": 39.1,
        "long_ttft_ms": 80.0,
        "ttft_again_x": 0.4,
        "fit_together": 125.0,
        "too_long_status": 200.0,
    }
    two = one | {"ttft_ms_p50": 747.0, "tpot_ms_p50": 6.3, "gap_ms": 44.6, "long_ttft_ms": 60.0}
    said = wording.trades(one, two)
    assert "TTFT longer: 747.0 ms instead of 50.0; TPOT no difference above 20 %" in said
    assert (
        "running streams no difference above 20 % (39.1 and 44.6 ms); the long prompt's TTFT "
        "shorter: 60.0" in said
    )


def test_who_ended_a_stopped_server_is_told_as_it_was():
    def report(how, code):
        return StopReport(3.1, how, 4, code, ())

    assert "killed it after 3 s" in wording.how_it_stopped(report("aborted", 137))
    assert "ended by itself with exit code 0" in wording.how_it_stopped(report("aborted", 0))
    assert "no requests left to give up" in wording.how_it_stopped(report("idle", 0))
