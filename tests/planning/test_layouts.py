"""Layouts in a child process: what a trial says when its child is late, fails or is left out."""

import time
from types import SimpleNamespace

import pytest

from helpers.planning import Inventory, layouts
from helpers.planning.engine_child import LATE, EngineChild, measure
from helpers.planning.layouts import Trial
from helpers.verdicts.machine import Disturbance

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
        measure=[
            {
                "tpot_ms": {"1x64": 2.0},
                "prefill_ms": {"256": 7.0},
                "values": {"tpot_ms": {"1x64": [1.9, 2.0, 2.6]}, "prefill_ms": {"256": [7.0]}},
            }
        ],
    )
    done = list(layouts.run_trials(CPU, [(2, 1), (1, 2), (4, 1)]))
    assert PretendedChild.started == 1
    assert [str(t) for t in done] == [
        "TP 2: ValueError: no",
        "PP 2: started in 1.5 s, 9 tokens of KV cache; TPOT 2.00 ms (1.90 to 2.60) with 1 stream",
        "TP 4: needs 4 cores, and this machine has 2; nothing was run.",
    ]
    metrics = done[1].record()["metrics"]
    assert (metrics["tpot_ms_1_streams_low"], metrics["tpot_ms_1_streams_high"]) == (1.9, 2.6)
    assert metrics["prefill_ms_256_tokens"] == 7.0


@pytest.mark.parametrize(
    "shares, kept, asked",
    [
        ([0.0], 2.0, 1),  # undisturbed: measured once
        ([0.4, 0.0], 3.0, 2),  # disturbed: once more, and the quiet one counts
        ([0.3, 0.6], 2.0, 2),  # disturbed twice: the less disturbed one, and it says so
    ],
)
def test_a_disturbed_trial_is_measured_once_more_and_says_so(
    two_cores, monkeypatch, shares, kept, asked
):
    watched = iter(shares)

    class Watch:
        def stop(self):
            return Disturbance(others_share=next(watched), steal_share=0.0)

    monkeypatch.setattr(layouts, "MachineWatch", Watch)
    left = [{"tpot_ms": {"1x64": ms}} for ms in (2.0, 3.0)]
    two_cores(open=[{"startup_s": 1.5, "kv_cache_tokens": 9}], measure=left)
    trial = next(layouts.run_trials(CPU, [(2, 1)]))
    assert trial.tpot_ms == {1: kept} and len(left) == 2 - asked
    assert ("disturbed" in str(trial)) == bool(trial.disturbed) == (shares[-1] > 0.1)


def test_a_speed_up_has_the_range_of_its_rounds():
    one = Trial(1, 1, tpot_ms={1: 2.0}, rounds={"tpot_ms": {1: [2.0, 2.02, 1.98]}})
    slower = Trial(2, 1, tpot_ms={1: 2.8}, rounds={"tpot_ms": {1: [2.8, 2.81, 2.79]}})
    noisy = Trial(2, 1, tpot_ms={1: 2.1}, rounds={"tpot_ms": {1: [1.7, 2.1, 2.9]}})
    once = Trial(2, 1, tpot_ms={1: 2.8})
    assert layouts.speedup(one, slower).verdict == "worse"
    assert layouts.speedup(one, noisy).verdict == "open"
    assert layouts.speedup(one, once).verdict == "open", "one value is no verdict"


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
