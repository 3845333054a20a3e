"""Layouts in a child process: what a trial says when its child is late, fails or is left out."""

import time
from types import SimpleNamespace

import pytest

from helpers.planning import layouts
from helpers.planning.engine_child import LATE, EngineChild, measure
from helpers.planning.layouts import Trial

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

    def end(self):
        pass


@pytest.fixture
def engines(monkeypatch):
    monkeypatch.setattr(layouts, "EngineChild", PretendedChild)
    PretendedChild.started = 0

    def made(**answers):
        PretendedChild.answers = answers
        return layouts.Engines(CPU)

    return made


STARTED = {"startup_s": 1.5, "kv_cache_tokens": 9}


def test_a_trial_has_its_rounds_and_their_ends(engines):
    reduced = {"allreduce": [{"bytes": 1, "seconds": 2}]}
    some = engines(open=[STARTED], generate=[{"outputs": ["one", "two"]}], measure=[reduced])
    with some.open(2, 1) as trial:
        assert trial.llm.generate(["prompt"], "params", use_tqdm=False) == ["one", "two"]
        for ms in (2.0, 1.9, 2.6):
            trial.note("tpot_ms", 1, ms)
        trial.note("prefill_ms", 256, 7.0)
    assert str(trial) == "TP 2: a decode step takes 2.00 ms (1.90 to 2.60) with 1 request"
    metrics = trial.record()["metrics"]
    assert (metrics["tpot_ms_1_streams_low"], metrics["tpot_ms_1_streams_high"]) == (1.9, 2.6)
    assert (metrics["prefill_ms_256_tokens"], metrics["kv_cache_tokens"]) == (7.0, 9)
    assert trial.allreduce == reduced["allreduce"] and trial.llm is None


def test_a_layout_that_fails_says_why_and_leaves_no_child(engines):
    some = engines(open=[{"problem": "ValueError: no"}, STARTED], measure=[])
    with some.open(2, 1) as trial:
        trial.llm.generate([], None)  # ends the rounds, and nothing is raised outside
        raise AssertionError("it went on")
    assert str(trial) == "TP 2: ValueError: no" and not trial.tpot_ms
    with some.open(1, 2) as other:
        assert not other.problem and PretendedChild.started == 2


def test_an_interrupted_trial_leaves_no_child(engines, monkeypatch):
    some = engines(open=[STARTED, STARTED], measure=[{}])

    def interrupted(*command, **arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), some.open(2, 1) as trial:
        patch.setattr(PretendedChild, "ask", interrupted)
        trial.llm.generate([], None)
    with some.open(2, 1) as trial:
        assert not trial.problem and PretendedChild.started == 2


def test_what_was_measured_until_time_was_up_is_kept(engines):
    some = engines(open=[STARTED], generate=[{"outputs": []}, {"problem": LATE}])
    with some.open(2, 1) as trial:
        for ms in (2.0, 2.1):
            trial.llm.generate([], None)
            trial.note("tpot_ms", 1, ms)
    assert trial.rounds["tpot_ms"] == {1: [2.0]} and trial.problem == LATE


def test_a_child_that_is_late_did_not_begin(engines):
    with engines(open=[{"problem": LATE}]).open(1, 2) as trial:
        pass
    assert trial.problem == "did not begin in the time allowed: importing"


def test_a_speed_up_has_the_range_of_its_rounds():
    def trial(*ms):
        return Trial(2, 1, rounds={"tpot_ms": {1: [*ms]}})

    one = trial(2.0, 2.02, 1.98)
    assert layouts.speedup(one, trial(2.8, 2.81, 2.79)).verdict == "worse"
    assert layouts.speedup(one, trial(1.7, 2.1, 2.9)).verdict == "open"
    assert layouts.speedup(one, trial(2.8)).verdict == "open", "one value is no verdict"


def test_a_child_that_ends_says_its_last_words():
    with EngineChild({"PYTHONPATH": "/nowhere"}) as child:
        deadline = time.monotonic() + 30
        heard = child.ask("open", deadline, model="/nowhere")
    assert "problem" in heard and child.process.poll() is not None


def test_ray_is_refused_at_once_where_vllm_has_no_devices_for_it(monkeypatch):
    from vllm.platforms import current_platform

    from helpers.planning import ray_nodes

    def no_node(*arguments):
        raise AssertionError("a node was started")

    monkeypatch.setattr(ray_nodes, "_Nodes", no_node)
    monkeypatch.setattr(type(current_platform), "ray_device_key", "")
    assert "does not support ray" in ray_nodes.run(CPU, devices=2).problem
    monkeypatch.setattr(type(current_platform), "ray_device_key", "GPU")
    assert "this machine has 1" in ray_nodes.run(CPU, devices=1).problem
    with pytest.raises(AssertionError, match="a node was started"):
        ray_nodes.run(CPU, devices=2)


class SlowAtFirst:
    """An engine whose first step of every number of streams takes five times as long."""

    model_config = SimpleNamespace(get_vocab_size=lambda: 100)
    scheduler = SimpleNamespace(max_num_seqs=8)
    llm_engine = SimpleNamespace(vllm_config=SimpleNamespace(scheduler_config=scheduler))

    def __init__(self):
        self.seen = set()

    def generate(self, prompts, params, use_tqdm):
        step_s = 1e-3 if len(prompts) in self.seen else 5e-3
        self.seen.add(len(prompts))
        metrics = SimpleNamespace(
            scheduled_ts=0.9,
            first_token_ts=1.0,
            first_token_latency=0.1,
            last_token_ts=1.0 + step_s * (params.max_tokens - 1),
            num_generation_tokens=params.max_tokens,
        )
        return [SimpleNamespace(metrics=metrics) for _ in prompts]


def test_no_round_holds_the_first_steps_of_a_number_of_streams():
    found = list(measure(SlowAtFirst(), decode=[(1, 8), (4, 8)], prefill=[8], output=8))[-1]
    for case in ("1x8", "4x8"):
        assert found["values"]["tpot_ms"][case] == pytest.approx([1.0, 1.0, 1.0])
