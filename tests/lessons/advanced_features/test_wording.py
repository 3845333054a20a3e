"""What notebook 2 says of its numbers: what the range does not show is not said."""

from types import SimpleNamespace

from helpers.lessons.advanced_features import chunking, services, wording
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.speculation import Acceptance, Rates
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import Disturbance


def made(ids, name, logprob, seconds=2.0):
    return Generated(name, ["t"] * len(ids), ids, [logprob], seconds)


def within(low, high):
    return Gain((low * high) ** 0.5, low, high, 3)


SLOWER = within(1.5, 1.7)


def verdict(name, cannot_act=(), accepted=None, **gains):
    service = services.Service(name, name, "", None, "", "ms", "lower", cannot_act=dict(cannot_act))
    same = dict.fromkeys(services.FEATURES[1:], within(0.96, 1.05))
    found = {feature.replace("_", " "): gain for feature, gain in gains.items()}
    return services.Verdict(service, same | found, accepted=accepted)


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


def test_stories_are_counted_and_compared_by_their_chance():
    def told(kind, place, deed="lit it"):
        return (
            f"There was {kind} fox who lived {place}. One morning the fox found a lamp and {deed}. "
            "Nobody was afraid any more."
        )

    def run(name, text, seconds=1.0):
        return Generated(name, [text], [[1, 2]], [-1.0], seconds, ["fox"])

    greedy, beam = told("a wise", "on a hill"), told("a small", "by the sea")
    sampled = [run("T 2", "x"), run("T 0.9", beam)]
    said = wording.strategies([run("greedy", greedy), *sampled, run("beams", beam, 10.0)])
    assert "“greedy”: 1 different of 1, 1 faultless; “T 2”: 1 different of 1, 0 faultless" in said
    assert "“beams” are 6.6 times as likely as those of “greedy”" in said
    assert "“T 0.9” are 6.6 times as likely: some began" in said and "“T 2” are" not in said
    assert said.endswith(
        "10.0 times fewer tokens/s than greedy (one run each; the others are too short to compare)."
    )
    assert "look ahead" not in wording.strategies([run("greedy", greedy), run("beams", greedy)])


def test_a_feature_is_said_with_the_services_that_it_helped_or_hurt():
    open_ones = {"small_chunks": within(0.9, 1.6), "speculative_decoding": within(0.8, 0.9)}
    said = wording.services(
        [
            verdict("chat", prefix_caching=within(4.5, 5.25)),
            verdict("mixed", prefix_caching=within(1.1, 1.25), **open_ones),
            verdict("batch", cannot_act={"prefix caching": ""}, prefix_caching=within(2, 3)),
        ]
    )
    assert said == [
        "prefix caching: better for chat (4.50 to 5.25 times) and mixed (1.10 to 1.25 times).",
        "small chunks: nothing to choose by.",
        "speculative decoding: worse for mixed (0.80 to 0.90 times).",
    ]


def test_a_wide_range_is_undecided_and_a_close_one_no_difference():
    wide = {"small_chunks": within(0.98, 3.66), "speculative_decoding": within(0.68, 0.975)}
    assert wording.numbers_say(verdict("assistant", accepted=0.956, **wide)) == (
        "prefix caching: no difference that this run can see (0.96 to 1.05); small chunks: "
        "undecided, 0.98 to 3.66 times as good; speculative decoding (96 % of the drafts "
        "accepted): undecided, 0.68 to 0.97 times as good."
    )


def test_a_gain_without_a_mechanism_is_a_disturbed_machine():
    cannot = {"cannot_act": {"prefix caching": "why"}, "small_chunks": within(0.8, 0.9)}
    said = wording.numbers_say(verdict("batch", prefix_caching=within(1.1, 1.2), **cannot))
    assert said.startswith(
        "prefix caching came out at 1.10 to 1.20, but it cannot act there (why): the machine was "
        "disturbed; small chunks: 0.80 to 0.90 times as good; speculative decoding: no diff"
    )
    assert wording.numbers_say(verdict("batch", **cannot)).startswith("small chunks: 0.80 to")


def test_there_is_a_decision_for_each_service_and_for_the_chunk_budget():
    whole = {"itl_ms_max": 500.0, "max_num_batched_tokens": 4352}
    small = {"itl_ms_max": 120.0, "max_num_batched_tokens": 512}
    found = wording.decisions([verdict("chat", prefix_caching=within(4.5, 5.25))], whole, small)
    choice, says = found["chat"]
    assert choice == "chat, by ms" and says.startswith("prefix caching: 4.50 to 5.25 times as good")
    choice, says = found["chunk_budget"]
    assert "500 ms with whole prompts and 120 ms with chunks of at most 512 tokens" in says


def test_numbers_of_drafts_that_are_not_told_apart_are_named():
    rows = [
        {"k": k, "gain": within(*span), "whole_answer": within(1.4, 1.5), "best_x": within(*best)}
        for k, span, best in (
            (1, (1.5, 2.0), (1.2, 1.3)),
            (2, (1.9, 2.1), (1.0, 1.0)),
            (4, (1.8, 2.0), (0.9, 1.1)),
        )
    ]
    assert wording.best_drafts(rows) == (
        "Best of those tried: 2 drafted tokens (as good as that may be 4, compared directly). "
        "Tokens after the first: 1.90 to 2.10 times as fast; whole answers: 1.40 to 1.50 times as "
        "fast."
    )
    most = wording.best_drafts(rows[:2])
    assert "2 drafted tokens, the most, so that more may be better still. Tok" in most
    none = wording.best_drafts([{"k": 1, "gain": within(0.95, 1.1)}])
    seen = "no difference that this run can see (0.95 to 1.10)"
    assert none == f"No gain can be seen; with 1 drafted tokens: {seen}."


def drafts(count, accepted=0):
    length = 1 + accepted / count if count else 1.0
    return Acceptance(count, 4 * count, accepted, length, 0.0)


def ngram(monkeypatch, counted, gain, async_scheduling, others=0.0):
    monkeypatch.setattr(wording, "acceptance", lambda runs, k: counted)
    for name in ("faster_stream", "sooner_answers"):
        monkeypatch.setattr(wording, name, lambda plain, drafting: gain)
    runs = [SimpleNamespace(disturbance=Disturbance(others, 0.0))]
    row = wording.ngram("questions", runs, runs, 4, async_scheduling)
    return ", ".join(f"{name}: {value}" for name, value in row.items())


def test_few_drafts_are_explained_by_the_text_not_by_their_cost(monkeypatch):
    said = ngram(monkeypatch, drafts(2, 3), within(0.8, 0.95), async_scheduling=True)
    assert "asked: questions, drafts: 2" in said and "found hardly anything to propose" in said
    assert "vLLM searches, and makes ready" in said and "Asynchronous scheduling is off" in said
    said = ngram(monkeypatch, drafts(0), within(0.97, 1.05), async_scheduling=False)
    assert "no difference that this run can see" in said and "Asynchronous" not in said
    assert "costs" not in said and "%" not in said


def test_a_gain_that_no_draft_can_explain_is_not_credited_to_the_drafts(monkeypatch):
    said = ngram(monkeypatch, drafts(338, 3), within(1.08, 1.18), True)
    assert "1.01 tokens on average" in said and said.endswith("the machine was disturbed.")
    said = ngram(monkeypatch, drafts(66, 255), within(3.7, 3.9), True)
    assert "accepted: 97 %, tokens after the first: 3.70 to 3.90 times as fast" in said
    assert said.endswith("why: A step that drafted made 4.86 tokens on average.")
    said = ngram(monkeypatch, drafts(66, 255), within(3.7, 3.9), True, others=0.28)
    assert "made 4.86 tokens on average. The machine was disturbed meanwhile: other" in said


def test_answers_that_differ_are_explained():
    assert wording.equality({"answers": 5, "equal": 5}).endswith("token by token.")
    assert "round differently" in wording.equality({"answers": 5, "equal": 4})


def test_a_batch_that_fills_no_machine_is_told_from_a_gain():
    def rows(steps, gains):
        return [
            {"requests": n, "plain_step_ms": s, "gain": within(0.97 * g, 1.03 * g)}
            for n, s, g in zip((1, 16, 64), steps, gains, strict=True)
        ]

    steady = rows((6.7, 6.8, 7.4), (1.51, 1.23, 1.18))
    launches = wording.batches(steady, 4, tiny=True)
    assert "do not fill the machine. The model is too small" in launches and "1.1 times" in launches
    assert "too small" not in wording.batches(steady, 4), (
        "7B on a large GPU waits for its weights, not for launches"
    )
    full = wording.batches(rows((2.0, 4.9, 14.0), (1.5, 0.99, 0.8)), 4)
    assert "No loss was seen up to 64 at once." in launches and "undecided" not in launches
    small = wording.batches(rows((2.0, 4.9, 14.0), (1.5, 1.04, 1.04)), 4)
    assert "No loss was seen up to 64 at once; undecided at 16, 64." in small
    assert "fill" not in full and "A loss at 64; undecided at 16." in full, "0.96 to 1.02: no loss"


def test_a_batch_is_undecided_on_either_side_of_one():
    spans = ((1, (1.24, 1.5)), (16, (0.999, 1.41)), (64, (1.0003, 1.39)))
    rows = [{"requests": n, "plain_step_ms": float(n), "gain": within(*s)} for n, s in spans]
    said = wording.batches(rows, 4)
    assert said.endswith("No loss was seen up to 64 at once; undecided at 16, 64.")
    assert "1 at once 1.24 to 1.50; 64 at once 1.00 to 1.39." in said


def test_one_c_tells_all_numbers_of_drafts_or_not():
    def row(k, low, high, formula_x):
        return {"k": k, "gain": within(low, high), "formula_x": formula_x} | REST

    REST = {"c_low": 0.5, "c_high": 0.6, "whole_answer": within(1.4, 1.5)}
    REST["best_x"] = within(1.2, 1.3)
    rows = [row(1, 0.6, 1.2, 1.1), row(4, 1.3, 1.6, 1.45), row(8, 1.9, 2.1, 1.7)]
    assert "with 8)" in wording.by_drafts(rows, 4) and "with 1" not in wording.by_drafts(rows, 4)
    assert "lies within the range of every point" in wording.by_drafts(rows[:2], 4)
    assert "does not grow" not in wording.by_drafts(rows, 4)
    rows[0] |= {"c_low": 0.7, "c_high": 0.9}
    assert wording.by_drafts(rows, 4).endswith("does not grow with the drafts.")


def test_the_gain_begins_where_its_range_does():
    spans = ((0.2, (0.7, 0.8)), (0.6, (0.98, 1.3)), (0.8, (1.3, 1.5)))
    rows = [{"alpha": alpha, "gain": within(*span)} for alpha, span in spans]
    said = wording.gain_by_acceptance(Rates(rows, SLOWER, 4), "a model")
    assert "gained from a = 0.8 on. Tokens after the first at a = 0.8: 1.30 to 1.50" in said
    said = wording.gain_by_acceptance(Rates(rows[:1], SLOWER, 4), "a model")
    assert "At no acceptance rate did it gain here, the drafts cost too much. Tokens" in said
    wide = {"alpha": 0.95, "gain": within(0.75, 3.6)}
    said = wording.gain_by_acceptance(Rates([*rows[:2], wide], SLOWER, 4), "a model")
    assert said.endswith("at a = 0.95: undecided, 0.75 to 3.60 times as fast.")
    assert "cost too much" not in said, "an open range is no proof of a loss"


def test_drafters_elsewhere_are_said_with_their_range():
    once = {"speedup_x": 0.3, "alpha": 0.95}
    often = once | {"speedup_x_low": 1.8, "speedup_x_high": 2.2, "speedup_x_values": 3}
    said = wording.drafters_elsewhere({"a model": [once], "a head": [often]}, "recorded: there")
    assert (
        "at a = 0.95, 1 at once: a model 0.30 times the output tokens/s in one run, too few" in said
    )
    assert said.endswith("a head 1.80 to 2.20 times the output tokens/s.")
    assert wording.drafters_elsewhere({}, "") == ""


def test_recorded_budgets_say_why_throughput_rose_only_where_it_did():
    def recorded(*rates):
        budgets = zip((256, 16_384), rates, strict=True)
        return [{"max_num_batched_tokens": b, "total_tokens_per_s": rate} for b, rate in budgets]

    rose = wording.budgets_elsewhere(recorded(17_000, 15_000))
    assert "256 tokens a step instead of 16,384" in rose and "from 15,000 to 17,000" in rose
    assert "waits for the weights" in rose
    assert "weights" not in wording.budgets_elsewhere(recorded(14_000, 15_000))
    assert wording.budgets_elsewhere([]) == ""


def test_prefix_hits_and_a_conversation_say_what_the_time_shows():
    def shared(last=(0.9, 1.1), hits=9):
        spans = {"system": (1.8, 2.2), "few-shot": (4.5, 5.5), "changed": last}
        numbers = {"predicted_tokens": 9, "hit_tokens": hits, "prompt_tokens": 20}
        return {
            name: SimpleNamespace(gain=within(*span), numbers=numbers)
            for name, span in spans.items()
        }

    counted, few_shot, other = wording.prefix_hits(shared())
    assert counted.startswith("Every predicted hit was counted")
    assert "4.50 to 5.50 times as soon" in few_shot and "no difference" in other
    assert "the machine, which was disturbed" in wording.prefix_hits(shared((1.1, 1.2)))[2]
    assert "differ" in wording.prefix_hits(shared(hits=1))[0]
    assert wording.hits_table(shared())[0]["predicted to be found"] == 9
    assert wording.full_blocks(256, 128) == "256 tokens fill 2 blocks of 128 exactly."
    assert "the other 44 lie" in wording.full_blocks(300, 128)


def test_a_conversation_is_told_turn_by_turn_and_not_as_a_range():
    without_ms = (11.3, 15.1, 20.5, 20.0, 40.9, 50.5, 44.0)
    turns = [
        {"turn": i, "ttft_ms": 10.0, "ttft_ms_without": t} for i, t in enumerate(without_ms, 1)
    ]
    said = wording.conversation(turns, 0.5)
    assert "2.0 times as soon at turn 4 and 4.4 times at turn 7 (10.0 ms instead of" in said
    assert said.endswith(
        "one run). Turn 1 finds nothing: its 1.1 times are not the cache's: noise or warm-up, this "
        "does not tell."
    )


def test_a_busy_machine_is_named():
    def run(others):
        return SimpleNamespace(disturbance=Disturbance(others, 0.0))

    assert wording.busy([run(0.0), run(0.05)]) == ""
    said = " The machine was disturbed meanwhile: other programs took 60 % of the cores."
    assert wording.busy([run(0.0), run(0.6), run(0.2)]) == said


def test_memory_is_explained_by_who_was_asked():
    cpu = wording.why_memory_cpu(71.2, "MiB")
    assert "returned 71 MiB to the operating system" in cpu and "was not measured" in cpu
    assert wording.why_memory_gpu(0.5).endswith("Earlier steps had taken a part.")


def test_preemptions_and_waste_are_counted_in_words():
    def run(preemptions, p99):
        metrics = {"e2e_ms_p99": p99, "output_tokens_per_s": 100.0}
        return SimpleNamespace(counters={"num_preemptions": preemptions}, metrics=metrics)

    said = wording.preemption({"a": run(0, 10.0), "b": run(7, 25.0), "c": run(0, 20.0)}, 5)
    assert said.startswith("7 preemptions with half of the blocks, 0 with all: E2E p99 25 ms")
    assert "With 5 requests at a time: 0 preemptions" in said
    held = {"tokens": 90, "unused_slots": 10, "contiguous_slots": 900, "requests": 2}
    assert "10 % are empty with blocks, 90 % with reservation; 5 slots" in wording.waste(held, 16)


def test_two_prompts_in_one_step_explain_a_gap_only_where_they_met():
    def ended(*times_s):
        longs = [SimpleNamespace(kind="long", token_times_s=[at, at + 1]) for at in times_s]
        streams = [SimpleNamespace(kind="short", token_times_s=[2.0]) for _ in range(3)]
        return chunking.prompts_together(SimpleNamespace(requests=longs + streams))

    alone = [201.0, 204.0, 257.0]
    assert "2 long prompts ended in one step" in wording.why_gap(ended(2.0, 2.0, 5.0), alone)(1.4)
    assert "No two long prompts" in wording.why_gap(ended(2.0, 5.0), alone)(1.4)
    assert "took 201 to 257 ms" in wording.why_gap(ended(2.0, 2.0), alone)(0.9)
