"""helpers/lessons/reading_notes/static_batching.py: what is made of the runs.

The engine is replaced here; notebook 3's test runs the real one.
"""

import contextlib
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from helpers.lessons.reading_notes import static_batching


@dataclass
class Run:
    duration_s: float
    timeline: list
    requests: list = field(default_factory=list)
    workload: dict = field(default_factory=dict)


@pytest.fixture
def served(monkeypatch):
    """An engine that needs one step a token; its second run is disturbed."""
    log = []

    def run_workload(engine, workload, progress):
        log.append(workload)
        waiting = [r.max_tokens for r in workload.requests]
        running, times, requests = [], [], []
        while waiting or running:
            reads = min(len(waiting), 2 - len(running))
            # A step that reads prompts takes 30 ms, any other 10 ms.
            times.append((times[-1] if times else 0.0) + (0.03 if reads else 0.01))
            requests += [SimpleNamespace(token_times_s=[times[-1]])] * reads
            running, waiting = running + waiting[:reads], waiting[reads:]
            running = [n - 1 for n in running if n > 1]
        extra = 5.0 if len(log) == 2 else 0.0  # another program disturbs the first wave
        return Run(times[-1] + extra, [{"t_s": time} for time in times], requests)

    monkeypatch.setattr(static_batching, "run_workload", run_workload)
    return log


class Tokenizer:
    all_special_ids = [0]

    def get_added_vocab(self):
        return {}

    def __len__(self):
        return 500


class Engine:
    tokenizer = Tokenizer()


def test_waves_and_continuous_are_counted_and_a_disturbance_widens_the_range(served):
    answers = [2, 10, 10, 2]
    out = static_batching.serve_both_ways(Engine(), answers, batch=2, repeats=3)
    assert (out.wave_steps, out.continuous_steps) == (20, 12)
    assert out.steps_x == pytest.approx(20 / 12)
    assert out.wave_s == pytest.approx(0.24), "the median, not the disturbed one"
    assert out.gain.verdict == "open", "one of three pairs was 26 times as slow"
    calm = static_batching.serve_both_ways(Engine(), answers, batch=2, repeats=3)
    assert calm.gain.estimate == pytest.approx(0.24 / 0.18) and calm.gain.verdict == "better"
    saved = calm.metrics("continuous")
    assert saved["speedup_x_low"] <= saved["speedup_x"] <= saved["speedup_x_high"]
    assert out.output_tokens == sum(answers)
    assert out.prompt_steps == {"waves": 2, "continuous": 3}
    assert (out.reading_ms, out.other_ms) == pytest.approx((30.0, 10.0))


def test_the_quickest_recording_is_the_shortest():
    def recording(*ends):
        return SimpleNamespace(steps=[SimpleNamespace(start_s=e - 1, end_s=e) for e in ends])

    slow, quick = recording(5, 9), recording(7, 10)
    assert static_batching.quickest([slow, quick]) is quick


def test_every_run_has_prompts_of_its_own_and_the_answers_asked_for(served):
    answers = [3, 1, 2]
    static_batching.serve_both_ways(Engine(), answers, batch=2, repeats=2)
    prompts = [tuple(r.prompt_token_ids) for w in served for r in w.requests]
    assert len(set(prompts)) == len(prompts), (
        "a prompt that comes twice would be found in the prefix cache"
    )
    continuous = [w for w in served if w.name == "continuous"]
    assert [[r.max_tokens for r in w.requests] for w in continuous] == [answers, answers]
    assert all(not r.stop_at_eos for w in served for r in w.requests)


def test_paged_and_reserved_are_measured_in_turn_from_the_same_cache(monkeypatch):
    log, limits = [], {}

    @contextlib.contextmanager
    def retuned(engine, **values):
        limits.clear()
        limits.update(values)
        yield values

    def run_workload(engine, workload, progress):
        log.append((workload.name, limits["num_gpu_blocks_override"]))
        places = limits.get("max_num_seqs", 12)
        return Run(12 / places, [{"running": places}] * 3 + [{"running": 0}])

    monkeypatch.setattr(static_batching, "retuned", retuned)
    monkeypatch.setattr(static_batching, "run_workload", run_workload)
    out = static_batching.reserved_against_paged(Engine(), [8] * 12, blocks=32, places=4)
    assert log == [("reserved", 33), ("paged", 33)] * 3
    assert out.running == {"reserved": 4, "paged": 12} and out.running_x == 3
    assert out.gain.estimate == pytest.approx(3)
