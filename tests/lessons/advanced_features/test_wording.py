"""What notebook 2 says of its numbers: what the range does not show is not said."""

from types import SimpleNamespace

from helpers.lessons.advanced_features import services, wording
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.speculation import Acceptance
from helpers.results import Results
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import Disturbance


def made(ids, name, logprob, seconds=2.0):
    return Generated(name, ["t"] * len(ids), ids, [logprob], seconds)


def within(low, high):
    return Gain((low * high) ** 0.5, low, high, 3)


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
    assert "from “greedy” and from “beams”, equally likely" in said and "One run each" in said
    assert "differs by no more than 0.01" in said
    assert wording.strategies([runs[0], runs[2]]).startswith("All texts are equally likely")
    varied = wording.strategies(
        [made([[1, 1, 1]], "greedy", **likely), made([[1, 2, 3]], "hot", **unlikely)]
    )
    assert (
        varied.startswith("The likeliest texts came from “greedy”;")
        and "went from 0.50 (“greedy”) to 1.00 (“hot”)" in varied
    )


def test_stories_are_compared_by_their_chance():
    def told(kind, place, deed="lit it"):
        return (
            f"There was {kind} fox who lived {place}. One morning the fox found a lamp and {deed}. "
            "Nobody was afraid any more."
        )

    def run(name, text):
        return Generated(name, [text], [[1, 2]], [-1.0], 1.0, ["fox"])

    greedy, beam = told("a wise", "on a hill"), told("a small", "by the sea")
    said = wording.strategies([run("greedy", greedy), run("T 2", "x"), run("beams", beam)])
    assert "in times that of “greedy”: 0.0 with “T 2”, 6.6 with “beams”." in said
    assert "Means of 1 stories" in said and "do not rank the strategies" in said
    faulty = wording.strategies([run("greedy", "x"), run("beams", greedy)])
    assert faulty.endswith("of “greedy” every one has a fault.")


def test_the_recap_has_a_line_for_each_feature_and_no_verdict_of_a_single_run(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    for variant, low, high in (("system prompt", 2.4, 4.1), ("few-shot, other", 3.0, 4.0)):
        store.save("prefix_caching", variant, within(low, high).metrics("ttft_gain_x"))
    for n, low, high in ((1, 1.4, 1.6), (64, 0.5, 1.2)):
        gain = within(low, high).metrics("throughput_gain_x")
        store.save("speculation", f"synthetic, a=0.8, {n} at once", gain)
    open_ones = {"small_chunks": within(0.9, 1.6), "speculative_decoding": within(0.8, 0.9)}
    disturbed = {"cannot_act": {"prefix caching": ""}, "prefix_caching": within(2, 3)}
    cache, chunks, ngram, drafts = wording.recap(
        store, [verdict("mixed", **open_ones, **disturbed)], budget(4352), budget(512, ttft=550.0)
    )
    last = wording.NEITHER
    assert cache == {
        "feature": "prefix caching",
        "gains": "first token, system prompt (2.40 to 4.10)",
        "loses": "nowhere seen",
        last: "mixed (2.00 to 3.00, cannot act)",
    }
    assert chunks[last] == (
        "p99 of the gaps, section 1 (1.00, one run); first token of the long prompts, section 1 "
        "(0.91, one run); mixed (0.90 to 1.60, undecided)"
    )
    assert {*ngram.values()} == {"speculative decoding, n-grams", "nowhere seen"}
    assert drafts["loses"] == "mixed (0.80 to 0.90)" and drafts["gains"] == "nowhere seen"
    assert drafts[last] == "largest batch of section 8 (0.50 to 1.20, undecided)"


def test_a_wide_range_is_undecided_and_a_close_one_no_difference():
    wide = {"small_chunks": within(0.98, 3.66), "speculative_decoding": within(0.68, 0.975)}
    assert wording.numbers_say(verdict("assistant", accepted=0.956, **wide)) == (
        "prefix caching: no difference of more than 10 % (0.96 to 1.05); small chunks: "
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
    said = wording.numbers_say(verdict("batch", **cannot))
    assert said.startswith("prefix caching cannot act there; small chunks: 0.80 to")


def test_there_is_a_decision_for_each_service_and_for_the_chunk_budget():
    rows = [
        {"itl_ms_p99": gap_ms, "max_num_batched_tokens": budget}
        for budget, gap_ms in ((4352, 500.0), (512, 120.0))
    ]
    found = wording.decisions([verdict("chat", prefix_caching=within(4.5, 5.25))], rows)
    choice, says = found["chat"]
    assert choice == "chat, by ms" and says.startswith("prefix caching: 4.50 to 5.25 times as good")
    choice, says = found["chunk_budget"]
    assert "500 ms with 4,352, 120 ms with 512 tokens a step" in says


def drafts(count, accepted=0):
    length = 1 + accepted / count if count else 1.0
    return Acceptance(count, 4 * count, accepted, length, 0.0)


def said_of(monkeypatch, counted, gain, unprepared):
    monkeypatch.setattr(wording, "acceptance", lambda runs, k: counted)
    for name in ("faster_stream", "sooner_answers"):
        monkeypatch.setattr(wording, name, lambda plain, drafting: gain)
    row = wording.drafter("ngram", "questions", [None], [None], 4, unprepared)
    return ", ".join(f"{name}: {value}" for name, value in row.items())


def test_few_drafts_are_explained_by_the_text_not_by_their_cost(monkeypatch):
    said = said_of(monkeypatch, drafts(2, 3), within(0.8, 0.95), unprepared=True)
    assert (
        "asked: questions, steps that drafted: 2" in said
        and "found hardly anything to propose" in said
    )
    assert "vLLM searches, and makes ready" in said and "Asynchronous scheduling is off" in said
    said = said_of(monkeypatch, drafts(0), within(0.97, 1.05), unprepared=False)
    assert "no difference of more than 10 %" in said and "Asynchronous" not in said
    assert "costs" not in said and said.count("%") == 2


def test_a_gain_that_no_draft_can_explain_is_not_credited_to_the_drafts(monkeypatch):
    said = said_of(monkeypatch, drafts(338, 3), within(1.08, 1.18), True)
    assert "1.01 tokens on average" in said and said.endswith("the machine was disturbed.")
    said = said_of(monkeypatch, drafts(66, 255), within(3.7, 3.9), True)
    assert "rate: 97 %, tokens after the first: 3.70 to 3.90 times as fast" in said
    assert said.endswith("why: A step that drafted made 4.86 tokens on average.")


def test_answers_that_differ_are_explained():
    assert wording.equality({"answers": 5, "equal": 5}).endswith("token by token.")
    assert "round differently" in wording.equality({"answers": 5, "equal": 4})


def batch_rows(steps, *spans):
    return [
        {"requests": n, "plain_step_ms": ms, "gain": within(*span)}
        for n, ms, span in zip((1, 16, 64), steps, spans, strict=True)
    ]


def test_a_batch_that_fills_no_machine_is_told_from_a_gain():
    gains = ((1.4, 1.6), (1.2, 1.3), (1.1, 1.2))
    launches = wording.batches(batch_rows((6.7, 6.8, 7.4), *gains), 4, 0.8, tiny=True)
    assert "a gain at 1 (1.40 to 1.60), 16 (1.20 to 1.30), 64 (1.10 to 1.20). A plain" in launches
    assert "do not fill the machine, because the model is so small" in launches
    assert "so small" not in wording.batches(batch_rows((6.7, 6.8, 7.4), *gains), 4, 0.8), (
        "7B on a large GPU waits for its weights, not for launches"
    )


def test_a_batch_is_undecided_on_either_side_of_one():
    full = (2.0, 4.9, 14.0)
    said = wording.batches(batch_rows(full, (1.4, 1.6), (0.96, 1.02), (0.7, 0.9)), 4, 0.8)
    assert said == (
        "Judged by the output tokens/s of a whole run, 4 drafts at a = 0.8, by requests at once: a "
        "gain at 1 (1.40 to 1.60); a loss at 64 (0.70 to 0.90); neither gain nor loss can be told "
        "at 16 (0.96 to 1.02)."
    )
    said = wording.batches(batch_rows(full, (1.24, 1.5), (0.54, 1.19), (0.98, 1.02)), 4, 0.8)
    assert "no difference at 64 (0.98 to 1.02); neither" in said and "loss at" not in said


def test_the_gain_begins_where_its_range_does_and_the_formula_is_held_against_it():
    spans = ((0.2, (0.7, 0.8)), (0.6, (0.98, 1.3)), (0.8, (1.3, 1.5)))
    rows = [{"a set": a, "a": a, "gain": within(*span)} for a, span in spans]
    said = wording.gain_by_acceptance(rows, 4, (0.3, 0.4), within(2.2, 2.8))
    assert "a gain at 0.8 (1.30 to 1.50); a loss at 0.2 (0.70 to 0.80); neither gain nor" in said
    assert "can be told at 0.6 (0.98 to 1.30). The figure before judges" in said
    # by the formula 0.48 to 0.57, 0.89 to 1.05 and 1.29 to 1.53
    assert said.endswith(
        "The formula with the c of section 3 (0.30 to 0.40, the band) meets 2 of 3 ranges. By the "
        "steps of these runs c is 0.30 to 0.45."
    )
    wide = {"a set": 0.95, "a": 0.95, "gain": within(0.75, 3.6)}
    said = wording.gain_by_acceptance([*rows[:2], wide], 4, (0.3, 0.4), within(2.2, 2.8))
    assert "ranges, but such wide ones say little. By" in said
    assert "be told at 0.6 (0.98 to 1.30), 0.95 (0.75 to 3.60)." in said and "a gain" not in said


def test_drafters_elsewhere_are_said_with_their_range():
    once = {"speedup_x": 0.3, "requests": 256, "alpha": 0.8}
    often = once | {"speedup_x_low": 1.8, "speedup_x_high": 2.2, "speedup_x_values": 3}
    said = wording.drafters_elsewhere({"a model": [once], "a head": [often]}, "recorded: there")
    assert "256 at once: a model 0.30 times the tokens/s in one run, too few" in said
    assert "a head 1.80 to 2.20 times the tokens/s. There, too, a = 0.8 was set by hand" in said
    assert wording.drafters_elsewhere({}, "") == ""


def budget(tokens, p50=5.0, p99=100.0, ttft=500.0, rate=4000.0):
    row = {"max_num_batched_tokens": tokens, "itl_ms_p50": p50, "itl_ms_p99": p99}
    return row | {"ttft_long_ms_p50": ttft, "total_tokens_per_s": rate}


def test_budgets_are_said_by_what_moved_from_whole_prompts_to_the_smallest():
    rows = [budget(4352, p99=489.0, ttft=505.0), budget(512, rate=4571.0), budget(256, p99=72.0)]
    rows[2]["ttft_long_ms_p50"] = 608.0
    [said] = wording.chunk_tradeoff(rows, [])
    assert said == (
        "In one run each: from whole prompts to 256 tokens a step p99 of the gaps fell (489 to 72 "
        "ms), TTFT of the long prompts rose (505 to 608 ms), throughput stayed within 3 % (4,000 "
        "to 4,000 tokens/s)."
    )
    [slow] = wording.chunk_tradeoff([*rows[:2], budget(256, p50=7.7)], [])
    assert "from whole prompts to 512 tokens a step" in slow and "rose (4,000 to 4,571" in slow
    assert "The run with 256 is left out: its usual gap, too, was longer (p50 7.7 ms" in slow
    [first] = wording.chunk_tradeoff([budget(4352, p50=7.7), *rows[1:]], [])
    assert "from 512 to 256 tokens a step" in first and "The run with 4,352 is left out" in first
    there = [budget(256, p99=12.0, ttft=330.0, rate=17_000.0), budget(16_384, ttft=195.0)]
    _, said = wording.chunk_tradeoff(rows, there)
    assert said.startswith("Recorded elsewhere: from whole prompts to 256 tokens a step p99")
    assert said.endswith("throughput rose (4,000 to 17,000 tokens/s).")


def test_a_small_budget_is_explained_by_its_longest_chunk():
    def steps(*ends_s):
        pairs = [(SimpleNamespace(end_s=end), SimpleNamespace(prefill=True)) for end in ends_s]
        return SimpleNamespace(of=lambda request: pairs)

    said = wording.why_small_gap(steps(0.1, 0.15, 0.25, 0.26), 4)
    assert "the second took 50 ms, the last full one 100 ms. Each token attends" in said
    assert "picture" not in wording.why_small_gap(steps(0.1, 0.2), 4)


def test_a_corrected_budget_lies_between_those_tried_or_not():
    rows = [budget(4352, p99=505.0), budget(512, p99=131.0), budget(256, p99=72.0)]
    said = wording.brackets(rows, 100, 385.1)
    assert said.startswith("In one run each 256 kept the promise and 512 did not")
    assert said.endswith(": 385 lies between them.")
    assert wording.brackets(rows, 100, 200).endswith(": 200 lies outside of them.")
    assert wording.brackets(rows, 50, 200) == "No budget that was tried kept the promise."
    assert wording.brackets(rows, 900, 200).startswith("Every budget that was tried")


def test_prefix_hits_and_a_conversation_say_what_the_time_shows():
    def shared(last=(0.9, 1.1), hits=9):
        spans = {"system": (1.8, 2.2), "few-shot": (4.5, 5.5), "changed": last}
        numbers = {"predicted_tokens": 9, "hit_tokens": hits, "prompt_tokens": 20}
        return {
            name: SimpleNamespace(gain=within(*span), numbers=numbers)
            for name, span in spans.items()
        }

    [counted] = wording.prefix_hits(shared())
    assert counted.startswith("Every predicted hit was counted")
    assert "the machine was disturbed" in wording.prefix_hits(shared((1.1, 1.2)))[1]
    assert "differ" in wording.prefix_hits(shared(hits=1))[0]
    assert wording.hits_table(shared())[0]["predicted to be found"] == 9
    assert wording.full_blocks(256, 128) == "256 tokens fill 2 blocks of 128 exactly."
    assert "the other 44 lie" in wording.full_blocks(300, 128)


def test_a_conversation_is_told_with_the_turn_that_finds_nothing():
    spans = ((0.95, 1.09), (1.2, 1.5), (1.5, 1.7), (1.8, 2.2), (2.4, 2.9), (3.1, 3.3), (4.2, 4.8))
    turns = [{"turn": i, "gain": within(*span)} for i, span in enumerate(spans, 1)]
    said = wording.conversation(turns, 0.5)
    assert "at turn 4: 1.80 to 2.20 times as soon; at turn 7: 4.20 to 4.80 times as soon" in said
    assert said.endswith("nothing is found: no difference of more than 10 % (0.95 to 1.09).")


def test_a_busy_machine_is_named():
    def run(others):
        return SimpleNamespace(disturbance=Disturbance(others, 0.0))

    assert wording.busy([run(0.0), run(0.05)]) == ""
    said = " The machine was disturbed meanwhile: other programs took 60 % of the cores."
    assert wording.busy([run(0.0), run(0.6), run(0.2)]) == said


def test_preemptions_are_counted_and_a_token_has_its_share_of_a_step():
    def run(preemptions, rate, at_once, step_s, *ended_s):
        requests = [SimpleNamespace(token_times_s=[end]) for end in ended_s]
        timeline = [{"t_s": i * step_s, "tokens": at_once} for i in range(4)]
        counters, metrics = {"num_preemptions": preemptions}, {"output_tokens_per_s": rate}
        lists = {"requests": requests, "timeline": timeline}
        return SimpleNamespace(counters=counters, metrics=metrics, **lists)

    full, half = run(0, 100.0, 2, 0.008, 1.5, 1.5), run(7, 78.0, 1, 0.005, 1.1, 1.9)
    counted, why = wording.preemption(full, half, run(0, 82.0, 1, 0.005, 0.9, 1.8), 1)
    assert counted == (
        "Half of the blocks: 7 preemptions, mean E2E +0 %, tokens/s -22 %. 1 requests at a time on "
        "them: 0 preemptions, mean E2E -10 %, tokens/s -18 %. One run each."
    )
    assert why.endswith("took 5.00 ms of a step with 1 requests, 4.00 ms of one with 2.")
    assert len(wording.preemption(full, half, run(0, 99.0, 1, 0.005, 0.9, 1.8), 1)) == 1
    assert "with 2 requests took 8.0 ms, one with 1 5.0" in wording.why_preempted(full, half, 1)


def test_a_gap_is_held_against_the_prompts_alone():
    alone = [201.0, 204.0, 257.0]
    assert wording.why_gap(alone, 210.0).endswith("lies among them.")
    assert wording.why_gap(alone, 300.0).endswith("was not measured.")
