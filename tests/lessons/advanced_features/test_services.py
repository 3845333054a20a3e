"""Four services, and what each is judged by."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from helpers.lessons.advanced_features import services
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import Disturbance


def test_the_mixed_service_is_judged_by_the_gaps_of_its_streams_alone():
    class Tokenizer:
        all_special_ids = []

        def get_added_vocab(self):
            return {}

        def __len__(self):
            return 300

        def apply_chat_template(self, messages, **_):
            return [1, 2]

    sizes = {
        "requests": 4,
        "long_tokens": 64,
        "prefix_tokens": 32,
        "output_tokens": 8,
        "streams": 2,
        "step_s": 0.01,
        "prefill_s": 0.1,
    }
    mixed = services.four_services(Tokenizer(), sizes)["mixed"]
    p99 = {"short": {"itl_ms_p99": 200.0}, "long": {"itl_ms_p99": 900.0}}
    assert mixed.value(SimpleNamespace(summary=p99.get)) == 200 and mixed.better == "lower"


SAME, BETTER = Gain(1.0, 0.98, 1.02, 3), Gain(1.5, 1.4, 1.6, 3)


def verdict(cannot_act=(), **gains):
    service = services.Service(
        "batch", "batch", "", None, "itl_ms_p99", "", "lower", cannot_act=dict(cannot_act)
    )
    return services.Verdict(service, {n.replace("_", " "): g for n, g in gains.items()})


def test_winners_are_those_whose_range_lies_above_1():
    more = Gain(3.0, 2.0, 4.5, 3)
    found = verdict(prefix_caching=BETTER, small_chunks=more, speculative_decoding=SAME)
    assert found.winners == ["small chunks", "prefix caching"]
    assert found.of("speculative decoding") == found.of("nothing") == "same"


@pytest.mark.parametrize("gain", [BETTER, Gain(0.5, 0.4, 0.6, 3)])
def test_a_feature_that_cannot_act_is_never_a_gain_or_a_loss(gain):
    found = verdict({"prefix caching": "why"}, prefix_caching=gain)
    assert found.of("prefix caching") == "disturbed" and found.winners == []


class Engine:
    """Counts what is done to it."""

    def __init__(self):
        self.llm, self.resets = self, 0

    def reset_prefix_cache(self):
        self.resets += 1


@pytest.fixture
def served(monkeypatch):
    """What is run on an Engine: (chunk, what requests may read), and how it is answered."""
    seen, busy = [], []

    @contextmanager
    def retuned(engine, max_num_batched_tokens=None):
        engine.chunk = max_num_batched_tokens
        yield

    def run_workload(engine, workload, sampling, concurrency, progress):
        seen.append((engine.chunk, sampling))
        busy_run = Disturbance(0.6 if busy and busy.pop(0) else 0.0, 0.0)
        value = {None: 10.0, 512: 5.0}[engine.chunk]
        return SimpleNamespace(value=value, disturbance=busy_run)

    monkeypatch.setattr(services, "retuned", retuned)
    monkeypatch.setattr(services, "run_workload", run_workload)
    monkeypatch.setattr(services.Service, "value", lambda self, run: run.value)
    return seen, busy


def test_settings_take_turns_with_an_empty_cache_each(served):
    seen, _ = served
    engine = Engine()
    unread = {"sampling": services.UNREAD}
    settings = {
        "nothing": unread,
        "prefix caching": {"sampling": {}},
        "small chunks": {**unread, "max_num_batched_tokens": 512},
    }
    gains, runs = services.compare(engine, verdict().service, settings, budget_s=0)
    nothing, caching, chunks = (None, services.UNREAD), (None, {}), (512, services.UNREAD)
    assert seen[:6] == [nothing, caching, chunks, chunks, caching, nothing]
    assert engine.resets == len(seen) == 9 and len(runs["nothing"]) == 3
    assert gains["small chunks"].verdict == "better" and gains["prefix caching"].verdict == "same"


def test_a_slowed_run_is_repeated_once(served):
    seen, busy = served
    busy += [True, False]
    assert (
        not services.serve(Engine(), verdict().service, [], {}).disturbance.slowed
        and len(seen) == 2
    )
    busy += [True, True]
    run = services.serve(Engine(), verdict().service, [], {})
    assert run.disturbance.slowed, "on a busy machine it ends all the same"
    assert len(seen) == 4
    busy += [True]
    services.serve(Engine(), verdict().service, [run], {})
    assert len(seen) == 5, "where it helped nothing before, a run is not repeated"
