"""Layouts in a child process: what a trial says when its child is late, fails or is left out."""

import time
from types import SimpleNamespace

import pytest

from helpers.planning import Inventory, layouts
from helpers.planning.engine_child import LATE, EngineChild

CPU = SimpleNamespace(name="cpu", model="m", engine_args={})


class PretendedChild:
    """Answers as told: {command: [answer, ...]}, one for each time it is asked."""

    answers: dict = {}
    started = 0

    def __init__(self, environment):
        type(self).started += 1

    def ask(self, command, deadline, **arguments):
        return dict(self.answers[command].pop(0))

    def last_words(self):
        return "importing"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(layouts, "take_inventory", lambda: Inventory((), cpu_cores=2))
    monkeypatch.setattr(layouts, "EngineChild", PretendedChild)
    PretendedChild.started = 0

    def answers(**given):
        PretendedChild.answers = given

    return answers


def test_a_layout_that_fails_does_not_start_another_child(two_cores):
    two_cores(
        open=[{"startup_s": 1.5, "kv_cache_tokens": 9}, {"problem": "ValueError: no"}],
        measure=[{"tpot_ms": {"1x64": 2.0}, "prefill_ms": {"256": 7.0}}],
    )
    done = list(layouts.run_trials(CPU, [(2, 1), (1, 2), (4, 1)]))
    assert PretendedChild.started == 1
    assert [str(t) for t in done] == [
        "TP 2: ValueError: no",
        "PP 2: started in 1.5 s, 9 tokens of KV cache; TPOT 2.00 ms with 1 stream",
        "TP 4: needs 4 cores, and this machine has 2; nothing was run.",
    ]


def test_what_was_measured_until_time_was_up_is_kept(two_cores):
    two_cores(
        open=[{"startup_s": 1.5, "kv_cache_tokens": 9}],
        measure=[{"tpot_ms": {"1x64": 2.0}, "problem": LATE}],
    )
    trial = next(layouts.run_trials(CPU, [(2, 1)]))
    assert trial.tpot_ms == {1: 2.0} and "did not end in the time allowed" in trial.problem


def test_a_child_that_is_late_did_not_begin(two_cores, monkeypatch):
    two_cores(open=[{"problem": LATE}])
    monkeypatch.setattr(layouts, "CPU_CHILD_S", 0.05)
    first = next(layouts.run_trials(CPU, [(1, 2)]))
    assert first.problem == "did not begin in the time allowed: importing"


def test_a_child_that_ends_says_its_last_words():
    with EngineChild({"PYTHONPATH": "/nowhere"}) as child:
        deadline = time.monotonic() + 30
        heard = child.ask("open", deadline, model="/nowhere")
    assert "problem" in heard and child.process.poll() is not None
