"""What notebook 2 says of its numbers: what the range does not show is not said."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

from helpers.lessons.advanced_features import chunking, services, wording
from helpers.lessons.advanced_features.sampling import Generated
from helpers.lessons.advanced_features.speculation import Acceptance
from helpers.results import Results
from helpers.verdicts.gain import Gain
from helpers.verdicts.machine import Disturbance


def made(ids, name, logprob, seconds=2.0):
    return Generated(name, ["t"] * len(ids), ids, [logprob], seconds)


def within(low, high):
    return Gain((low * high) ** 0.5, low, high, 3)


def verdict(name, accepted=0.9, **gains):
    service = services.Service(name, name, "", None, "", "ms", "lower")
    found = {feature.replace("_", " "): gain for feature, gain in gains.items()}
    return services.Verdict(service, found, accepted=accepted)


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
    said = wording.strategies([run("greedy", greedy), run("beams", beam)])
    assert said.startswith("1 stories, each about somebody else") and "do not rank" in said


def test_the_recap_has_a_line_for_each_feature_and_only_what_is_decided(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    for variant, low, high in (("system prompt", 2.4, 4.1), ("few-shot, other", 3.0, 4.0)):
        store.save("prefix_caching", variant, within(low, high).metrics("ttft_gain_x"))
    for n, low, high in ((1, 1.4, 1.6), (64, 0.5, 1.2)):
        gain = within(low, high).metrics("throughput_gain_x")
        store.save("speculation", f"synthetic, a=0.8, {n} at once", gain)
    kept = within(1.6, 2.0).metrics("tpot_gain_x") | {"a": 0.97}
    machine = {"disturbed": ["other programs took 40 % of the cores"]}
    store.save("speculation", "synthetic, a=0.95", kept, machine=machine)
    gains = {"small_chunks": within(0.9, 1.6), "speculative_decoding": within(0.8, 0.9)}
    there = [verdict("mixed", speculative_decoding=within(0.2, 0.3), small_chunks=within(0.9, 2))]
    rows = wording.recap(store, [verdict("mixed", **gains)], there, [])
    cache, chunks, ngram, alone, mixed = rows
    assert cache == {
        "feature": "prefix caching",
        "where": "first token, system prompt",
        "here": "gain, 2.40 to 4.10",
        "recorded GPU": "",
    }
    assert chunks["where"] == ngram["where"] == "nowhere decided"
    assert alone["where"] == "one stream, a = 0.97, disturbed"
    assert alone["here"] == "gain, 1.60 to 2.00"
    assert (mixed["where"], mixed["here"]) == ("mixed", "loss, 0.80 to 0.90")
    assert mixed["recorded GPU"] == "loss, 0.20 to 0.30"
    head = {"requests": 64} | within(1.2, 1.6).metrics("speedup_x")
    *_, heads = wording.recap(store, [], there, [head])
    assert heads["recorded GPU"] == "gain at 64 (1.20 to 1.60)" and heads["here"] == "not run"
    here_alone = wording.recap(store, [verdict("mixed", **gains)], [], [])
    assert not any("recorded GPU" in row for row in here_alone), "nothing was recorded elsewhere"


def test_what_is_decided_on_the_recorded_gpu_alone_has_a_row(tmp_path):
    store = Results("02_advanced_features", tmp_path)
    here = verdict("batch", small_chunks=within(0.8, 1.3))
    there = verdict("batch", small_chunks=within(0.85, 0.9))
    _, row, *_ = wording.recap(store, [here], [there], [])
    assert row["here"] == "undecided, 0.80 to 1.30" and row["recorded GPU"] == "loss, 0.85 to 0.90"


def test_a_wide_range_is_undecided_and_a_close_one_no_difference():
    wide = {"small_chunks": within(0.96, 1.05), "speculative_decoding": within(0.68, 0.975)}
    [(_, [row]), _] = wording.decisions(
        [verdict("assistant", accepted=0.956, **wide)], [budget(512)], [], []
    ).values()
    assert row == {
        "machine": "here",
        "prefix caching": "cannot act",
        "small chunks": "no difference of more than 10 %, 0.96 to 1.05",
        "speculative decoding": "undecided, 0.68 to 0.975 (96 % accepted)",
    }
    assert wording.in_one_text([row]).startswith("here: prefix caching cannot act; small chunks no")


def test_the_share_of_drafts_is_said_once_for_all_services():
    assert "Of the drafts 96 to 100 % were accepted" in wording.services([0.956, 1.0, 0.96])
    assert "Of the drafts 96 % were accepted" in wording.services([0.956, 0.961])


def test_there_is_a_decision_for_each_service_and_for_the_chunk_budget():
    rows = [budget(4352, p99=500.0), budget(512, p99=120.0)]
    mine, there = (verdict("chat", prefix_caching=within(*of)) for of in ((4.5, 5.25), (2.0, 3.0)))
    found = wording.decisions([mine], rows, [there], [budget(512, p99=30.0), budget(256, p99=50.0)])
    choice, table = found["chat"]
    assert choice == "chat, times as good by ms"
    assert [row["machine"] for row in table] == ["here", "recorded GPU"]
    assert [row["prefix caching"] for row in table] == ["gain, 4.50 to 5.25", "gain, 2.00 to 3.00"]
    _, table = found["chunk_budget"]
    assert wording.in_one_text(table[:1]).endswith("500 ms with 4,352, 120 ms with 512.")
    assert len(wording.decisions([mine], rows, [], [])["chat"][1]) == 1, "nothing was recorded"


def test_services_are_told_by_what_is_decided():
    chunks, drafts = {"small_chunks": within(1.1, 1.3)}, {"speculative_decoding": within(0.5, 0.6)}
    gain, loss = wording.by_service([verdict("chat", **chunks | drafts)])
    assert gain == (
        "Gain: small chunks for “chat” (1.10 to 1.30): it lets tokens come while other prompts "
        "are still read."
    )
    assert loss == "Loss: speculative decoding for “chat” (0.50 to 0.60)."
    assert wording.by_service([verdict("batch", small_chunks=within(0.8, 1.3))]) == [
        "Gain: nowhere decided.",
        "Loss: nowhere decided.",
    ]


def test_each_choice_is_held_against_what_came_out():
    def row(chosen, *span):
        one = verdict("chat", small_chunks=within(*span))
        return wording.choices([replace(one, chosen=chosen)])[0]

    assert row("small chunks", 1.1, 1.3)["what it did"] == "gain, 1.10 to 1.30"
    assert row("small chunks", 0.8, 1.3)["what gained"] == "nowhere decided"
    assert row("prefix caching", 1.1, 1.3)["what it did"] == "cannot act"
    assert row("speculative decoding", 1.1, 1.3)["what it did"] == "not compared"
    assert row("nothing", 1.1, 1.3)["what it did"] == "something gained"
    assert row("nothing", 0.8, 1.3)["what it did"] == "no gain was decided"
    none = row(None, 0.8, 1.3)
    assert (none["your choice"], none["what it did"]) == ("none made", "")


def steps(n):
    return SimpleNamespace(timeline=[None] * n)


def test_a_drafter_is_told_by_its_steps_and_its_range(monkeypatch):
    key, gain = ("ngram", "repeats"), within(3.7, 3.9)
    for counted, rate in (
        (Acceptance(66, 264, 255, 1 + 255 / 66, 0.0), "255 of 264 (97 %)"),
        (Acceptance(0, 0, 0, 1.0, 0.0), "none drafted"),
    ):
        monkeypatch.setattr(wording, "acceptance", lambda runs, k, counted=counted: counted)
        row = wording.drafter(key, [steps(66)] * 4, [steps(16)] * 4, gain, 4)
        assert row["steps without drafts"] == 66 and row["and with"] == 16
        assert row["accepted"] == rate and row["speed-up"] == "3.70 to 3.90 times as fast"
        assert row["rounds that count"] == "3 of 4"
    assert wording.ngrams([row]) == (
        "N-gram drafts accepted: none drafted for repeats, so 66 steps became 16."
    )


def test_fewer_steps_say_how_long_a_step_may_take():
    said = wording.draft_model(steps(82), steps(20), within(1.2, 1.6), within(2.5, 3.1))
    assert said == (
        "With a draft model's drafts the same questions took 20 steps instead of 82. A step may "
        "then take about 4.1 times as long before drafts lose; it took 1.20 to 1.60 times as long. "
        "The speed-up: 2.50 to 3.10 times as fast."
    )


def test_the_formulas_assumption_is_read_off_the_steps():
    said = wording.whatever_is_accepted(within(0.98, 1.02), 0.5, 0.95)
    assert "It holds here: at a = 0.95 a step took 0.98 to 1.02 times as long as at a = 0.5" in said
    assert "It fails here" in wording.whatever_is_accepted(within(0.6, 0.8), 0.5, 0.95)
    assert "neither" in wording.whatever_is_accepted(within(0.6, 1.2), 0.5, 0.95)


def test_answers_that_differ_are_explained():
    assert wording.equality({"answers": 5, "equal": 5}).endswith("token by token.")
    assert "round differently" in wording.equality({"answers": 5, "equal": 4})


def test_places_are_sorted_by_their_verdict():
    spans = ((1, (1.4, 1.6)), (8, (0.96, 1.02)), (64, (0.7, 0.9)), (256, (0.98, 1.02)))
    spans += ((512, (0.8, 1.2)),)
    rows = [{"requests": n, "gain": within(*span)} for n, span in spans]
    assert wording.by_verdict(rows, "requests") == (
        "gain at 1 (1.40 to 1.60); no difference of more than 10 % at 8 (0.96 to 1.02); loss at 64 "
        "(0.70 to 0.90); no difference of more than 3 % at 256 (0.98 to 1.02); undecided at 512 "
        "(0.80 to 1.20)"
    )


def test_a_step_that_takes_longer_has_to_make_as_many_tokens():
    said = wording.enough(within(1.0, 3.3616), 4)
    assert said.endswith("has to make as many tokens: by the formula a > 0.00 to 0.80.")
    assert wording.enough(within(8.0, 9.0), 4).endswith("5 tokens at most: no a is enough.")
    assert wording.enough(within(0.9, 1.2), 4).endswith("which a is enough is undecided.")
    assert wording.enough(within(4.0, 6.0), 4).endswith("which a is enough is undecided.")
    assert "2.00 to 3.00 times as long" in wording.why_c(within(2.0, 3.0))


def budget(tokens, p99=100.0, ttft=500.0):
    return {"max_num_batched_tokens": tokens, "itl_ms_p99": p99, "ttft_long_ms_p50": ttft}


def test_single_runs_of_both_ends_are_stated_and_not_ranked():
    rows = [budget(4352, p99=489.0, ttft=505.0), budget(512, p99=72.0)]
    [said] = wording.chunk_tradeoff(rows, [], "")
    assert said == (
        "Here, from 4,352 to 512 tokens a step, in one run each: p99 of the gaps 489 ms and then "
        "72 ms, TTFT of long prompts 505 ms and then 500 ms."
    )
    there = [budget(256, p99=50.0, ttft=869.0), budget(512, p99=12.0), budget(16_384, p99=40.0)]
    _, said = wording.chunk_tradeoff(rows, there, "recorded: there")
    assert said.startswith("Recorded: there, from 16,384 to 256 tokens")
    assert "gaps 40 ms and then 50 ms" in said and said.endswith("500 ms and then 869 ms.")


def test_a_promise_names_every_budget_and_the_largest_that_kept_it():
    rows = [budget(512, p99=137.0), budget(394, p99=106.0), budget(256, p99=84.0)]
    by = {"the rule": 512, "the corrected rule": 394}
    said = wording.promise(rows, by, 100)
    assert "the rule (512 tokens) 137 ms, the corrected rule (394 tokens) 106 ms." in said
    assert "The largest that kept it: 256 (84 ms)." in said
    assert "None kept it." in wording.promise(rows, by, 50)


def test_a_small_budget_is_held_against_its_chunks():
    def chunks_ms(*ends_s):
        steps = [SimpleNamespace(start_s=a, end_s=b) for a, b in pairwise((0.0, *ends_s))]
        pairs = [(step, SimpleNamespace(prefill=True)) for step in steps]
        return chunking.full_chunks_ms(SimpleNamespace(of=lambda request: pairs), 4)

    said = wording.why_small_gap(chunks_ms(0.05, 0.15, 0.16))
    assert said.endswith("the first took 50 ms, the last full one 100 ms.")
    assert "chart" not in wording.why_small_gap(chunks_ms(0.1, 0.2))


def test_a_step_gives_what_is_left_of_its_budget():
    assert chunking.one_step({"a": 1, "b": 9}, {"c": 5, "d": 1}, 12) == {"a": 1, "b": 9, "c": 2}


def test_prefix_hits_and_a_conversation_say_what_the_time_shows():
    def shared(last=(0.9, 1.1), hits=9):
        spans = {"system": (1.8, 2.2), "few-shot": (4.5, 5.5), "changed": last}
        numbers = {"predicted_tokens": 9, "hit_tokens": hits, "prompt_tokens": 20}
        return {
            name: SimpleNamespace(gain=within(*span), numbers=numbers)
            for name, span in spans.items()
        }

    counted, own = wording.prefix_hits(shared())
    assert counted.startswith("Every predicted hit was counted") and "found 9 tokens" in own
    assert "the machine was disturbed" in wording.prefix_hits(shared((1.1, 1.2)))[2]
    assert "differ" in wording.prefix_hits(shared(hits=1))[0]
    assert wording.hits_table(shared())[0]["predicted to be found"] == 9
    assert wording.full_blocks(256, 128) == "256 tokens fill 2 blocks of 128 exactly."
    assert "the other 44 lie" in wording.full_blocks(300, 128)


def test_a_conversation_is_told_by_its_last_turn():
    turns = [{"turn": i, "gain": within(*span)} for i, span in ((1, (0.9, 1.1)), (7, (4.2, 4.8)))]
    said = wording.conversation(turns, 0.5)
    assert said.startswith("50 % of all") and "turn 7: 4.20 to 4.80 times as soon." in said


def test_a_busy_machine_is_named():
    def run(others):
        return SimpleNamespace(disturbance=Disturbance(others, 0.0))

    assert wording.busy([run(0.0), run(0.05)]) == ""
    said = " The machine was disturbed meanwhile: other programs took 60 % of the cores."
    assert wording.busy([run(0.0), run(0.6), run(0.2)]) == said


def test_preemptions_are_counted_and_steps_have_their_time():
    def run(preemptions, rate, at_once, step_s, *ended_s):
        requests = [SimpleNamespace(token_times_s=[end]) for end in ended_s]
        timeline = [{"t_s": i * step_s, "tokens": at_once} for i in range(4)]
        counters, metrics = {"num_preemptions": preemptions}, {"output_tokens_per_s": rate}
        lists = {"requests": requests, "timeline": timeline}
        return SimpleNamespace(counters=counters, metrics=metrics, **lists)

    full, half = run(0, 100.0, 2, 0.008, 1.5, 1.5), run(7, 78.0, 1, 0.005, 1.1, 1.9)
    assert wording.preemption(full, half, run(0, 82.0, 1, 0.005, 0.9, 1.8), 1) == (
        "In one run each, against all blocks: half of them 7 preemptions, mean E2E +0 %, tokens/s "
        "-22 %; 1 requests at a time on these 0 preemptions, mean E2E -10 %, tokens/s -18 %. "
        "To let in fewer ends the preemptions, not the waiting: against both give the KV cache "
        "more memory (`gpu_memory_utilization`)."
    )
    assert "with 2 requests took 8.0 ms, one with 1 took 5.0" in wording.why_preempted(
        full, half, 1
    )


def test_a_gap_is_held_against_the_prompts_alone():
    alone = [201.0, 204.0, 257.0]
    assert wording.why_gap(alone, 210.0).endswith("lies among them.")
    assert wording.why_gap(alone, 300.0).endswith("was not measured.")
