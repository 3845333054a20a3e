"""helpers/lessons/reading_notes/static_batching.py; notebook 3's test serves them on an engine."""

from types import SimpleNamespace

import pytest

from helpers.lessons.reading_notes import static_batching
from helpers.measure import Measurement
from helpers.results.store import Results
from helpers.verdicts.gain import gain_of_pairs
from helpers.verdicts.machine import Disturbance


class Tokenizer:
    all_special_ids = [0]

    def get_added_vocab(self):
        return {}

    def __len__(self):
        return 500


ENGINE = SimpleNamespace(tokenizer=Tokenizer())


def test_every_answer_has_its_length_and_a_prompt_of_its_own():
    load = static_batching.ragged(ENGINE, [3, 1, 2], prompt_tokens=32, seed=1)
    assert [request.max_tokens for request in load.requests] == [3, 1, 2]
    prompts = {tuple(request.prompt_token_ids) for request in load.requests}
    assert len(prompts) == 3 and {len(prompt) for prompt in prompts} == {32}
    assert not any(request.stop_at_eos for request in load.requests)
    again, other = (static_batching.ragged(ENGINE, [3, 1, 2], 32, seed) for seed in (1, 2))
    assert load.requests == again.requests != other.requests


def test_waves_are_the_same_requests_in_their_order_and_the_last_one_may_be_smaller():
    load = static_batching.ragged(ENGINE, [5, 4, 3, 2, 1], prompt_tokens=8)
    waves = static_batching.waves(load, 2)
    assert [len(wave) for wave in waves] == [2, 2, 1]
    assert sum((wave.requests for wave in waves), ()) == load.requests
    assert static_batching.waves(load, 9) == [load]


def run(seconds: float, tokens: list[int], waiting: list[int]):
    timeline = [{"tokens": n, "waiting": w} for n, w in zip(tokens, waiting, strict=True)]
    load, calm = {"requests": len(tokens)}, Disturbance(0.0, 0.0)
    measured = Measurement([], seconds, {}, timeline, load, {"max_num_seqs": 2}, calm)
    measured.metrics = {"output_tokens": sum(tokens)}
    return measured


def test_a_trial_counts_its_waves_together_and_saves_both_ways(tmp_path):
    waves = [run(1.0, [2, 1], [0, 0]), run(1.0, [2, 1, 1], [0, 0, 0])]
    whole = run(1.0, [2, 2, 2, 1], [1, 1, 0, 0])
    trial = static_batching.Trial({"waves": [waves] * 3, "continuous": [[whole]] * 3})
    assert trial.steps == {"waves": 5, "continuous": 4}
    assert trial.seconds == [(2.0, 1.0)] * 3 and trial.busy == ""
    assert trial.step_ms == pytest.approx({"waves": 400, "continuous": 250})
    assert trial.told.startswith("waves: 5 engine steps, 2.00 s (mean of the rounds)\n")
    store = Results("03_reading_notes", tmp_path)
    for way, made, numbers in trial.records(gain_of_pairs(trial.seconds, "lower")):
        saved = store.save_run("batching", way, made, numbers)
    assert saved["metrics"]["fewer_steps_x"] == 1.25
    assert saved["metrics"]["speedup_x"] == pytest.approx(2.0)
    slow = store.get("batching", "waves")
    assert slow["metrics"]["requests_in_a_step"] == pytest.approx(7 / 5)
    assert slow["workload"] == {"requests": 4} and "speedup_x" not in slow["metrics"]
    assert static_batching.while_others_wait(whole) == (2.0, 1.5)
    assert static_batching.while_others_wait(waves[0]) == (0, 1.5)


def test_the_steps_that_places_need():
    assert static_batching.steps_needed([3, 1, 2], 2) == 3
    assert static_batching.steps_needed([3, 1, 2], 1) == 6
