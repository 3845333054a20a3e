"""What notebook 2 says of its numbers: a gain below the noise is none, a tie is called a tie."""

from types import SimpleNamespace

from helpers.lessons.advanced_features import services, wording
from helpers.lessons.advanced_features.sampling import Generated


def made(ids, name, logprob, seconds=2.0):
    return Generated(name, ["t"] * len(ids), ids, [logprob], seconds)


def gains(**better):
    found = {name.replace("_", " "): value for name, value in better.items()}
    return dict.fromkeys(services.FEATURES, 1.0) | found


def test_a_tie_is_called_a_tie():
    likely, unlikely = {"logprob": -0.0009}, {"logprob": -0.48}
    runs = [
        made([[1, 2, 3]], "greedy", **likely),
        made([[1, 2, 3]], "hot", **unlikely),
        made([[1, 2, 3]], "beams", seconds=12.0, **likely),
    ]
    said = wording.strategies(runs)
    assert "from “greedy” and from “beams”, equally likely" in said and "6.0 times fewer" in said
    assert "differs by no more than 0.01" in said
    assert wording.strategies([runs[0], runs[2]]).startswith("All texts are equally likely")
    varied = wording.strategies(
        [made([[1, 1, 1]], "greedy", **likely), made([[1, 2, 3]], "hot", **unlikely)]
    )
    assert (
        varied.startswith("The likeliest texts came from “greedy”;")
        and "went from 0.50 (“greedy”) to 1.00 (“hot”)" in varied
    )


def test_no_winner_below_the_noise():
    assert services.best_of(gains(prefix_caching=1.01, small_chunks=0.8)) is None
    assert services.best_of(gains(prefix_caching=1.2, small_chunks=1.6)) == "small chunks"
    said = wording.services(
        [
            {"service": "chat", **gains(prefix_caching=5.25)},
            {"service": "batch", **gains(prefix_caching=1.01)},
        ]
    )
    assert said.startswith("chat: prefix caching (5.25x); batch: nothing above the noise.")


def test_ties_are_named():
    rows = [{"k": 1, "measured_x": 1.6}, {"k": 2, "measured_x": 1.98}, {"k": 4, "measured_x": 1.95}]
    assert (
        wording.best_drafts(rows)
        == "Best here: 2 drafted tokens, 1.98 times as fast (4 within 5 % of it)."
    )
    assert "(" not in wording.best_drafts(rows[:2])
    assert "No number" in wording.best_drafts(
        [{"k": 1, "measured_x": 1.02}, {"k": 4, "measured_x": 0.7}]
    )


def test_a_batch_that_fills_no_machine_is_told_from_a_gain():
    def rows(steps, gains):
        return [
            {"requests": n, "plain_step_ms": s, "speedup_x": g}
            for n, s, g in zip((1, 16, 64), steps, gains, strict=True)
        ]

    steady = rows((6.7, 6.8, 7.4), (1.51, 1.23, 1.18))
    launches = wording.batches(steady, 4, tiny=True)
    assert (
        "do not fill the machine. The model is too small" in launches
        and "1.1 times" in launches
        and "No loss" in launches
    )
    assert "too small" not in wording.batches(steady, 4), (
        "7B on a large GPU waits for its weights, not for launches"
    )
    full = wording.batches(rows((2.0, 4.9, 14.0), (1.5, 0.99, 0.8)), 4)
    assert "fill" not in full and "a loss at 64 requests" in full, "1 % is noise, not a loss"


def test_a_fixed_cost_is_named_only_where_there_is_one():
    assert "25 % of a plain step" in wording.fixed_cost(0.25)
    assert "no fixed cost above the noise" in wording.fixed_cost(0.0)


def test_the_gain_begins_where_it_is_above_the_noise():
    rows = [{"alpha": a, "measured_x": x} for a, x in ((0.2, 0.8), (0.6, 1.02), (0.8, 1.4))]
    said = wording.gain_by_acceptance(rows, "a model", 1.6, 0.15)
    assert "gained from a = 0.8 on; at a = 0.8 it was 1.40 times" in said
    assert "At no acceptance rate" in wording.gain_by_acceptance(rows[:2], "a model", 1.6, 0.15)


def test_prefix_hits_and_a_conversation_say_what_the_time_shows():
    rows = [
        {"ttft_cold_ms": 40.0, "ttft_warm_ms": warm, "predicted_tokens": 9, "hit_tokens": 9}
        for warm in (20.0, 8.0, 39.0)
    ]
    said = wording.prefix_hits(rows)
    assert said.startswith("Every predicted hit was counted, and no other. TTFT is 5.0 times")
    assert "and no different, within the noise, with another first token" in said
    assert "differ" in wording.prefix_hits([{**row, "hit_tokens": 1} for row in rows])
    assert wording.full_blocks(256, 128) == "256 tokens fill 2 blocks of 128 exactly."
    assert "the other 44 lie" in wording.full_blocks(300, 128)
    turns = [{"ttft_ms": 5.0, "ttft_ms_without": 20.0}]
    assert "took 5.0 ms instead of 20.0 ms" in wording.conversation(turns, 0.5)
    assert "too short" in wording.conversation([{**turns[0], "ttft_ms_without": 5.1}], 0.5)


def test_memory_is_explained_by_who_was_asked():
    assert "operating system" in wording.why_memory(on_cpu=True)(2.0)
    assert wording.why_memory(on_cpu=False)(0.5).endswith("Earlier steps had taken a part.")


def test_preemptions_and_waste_are_counted_in_words():
    def run(preemptions, p99):
        metrics = {"e2e_ms_p99": p99, "output_tokens_per_s": 100.0}
        return SimpleNamespace(counters={"num_preemptions": preemptions}, metrics=metrics)

    said = wording.preemption({"a": run(0, 10.0), "b": run(7, 25.0), "c": run(0, 20.0)}, 5)
    assert said.startswith("7 preemptions with half of the blocks, 0 with all: E2E p99 25 ms")
    assert "With 5 requests at a time: 0 preemptions" in said
    held = {"tokens": 90, "unused_slots": 10, "contiguous_slots": 900, "requests": 2}
    assert "10 % are empty with blocks, 90 % with reservation; 5 slots" in wording.waste(held, 16)


def test_choices_stand_beside_what_was_best():
    rows = [
        {"service": "chat", "chosen": "small chunks", **gains(prefix_caching=3.0)},
        {"service": "batch", "chosen": "", **gains()},
    ]
    said = "chat: you chose small chunks, 1.00x; best was prefix caching."
    assert wording.choices(rows) == [said]
