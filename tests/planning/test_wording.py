"""Sentences and figures of notebook 4: each says what the numbers beside it say."""

import math
import re

import pytest

from helpers import REPO
from helpers import planning as plan
from helpers.display import figures as style
from helpers.planning import layouts, margins, plots, recorded, week5_plan, wording
from helpers.planning.allreduce import fit_allreduce
from helpers.planning.layouts import Trial
from helpers.results import Results
from helpers.verdicts.gain import gain_of_groups
from helpers.verdicts.machine import Disturbance

SHAPE, BOX, OPTIONS = (
    plan.load_shape("Llama-3.1-70B"),
    plan.make_box("H100-SXM", 8),
    plan.EngineOptions(max_model_len=8192),
)


LOAD = plan.RequestMix(1024, 256, 64)


def ranked():
    return plan.rank(SHAPE, BOX, LOAD, OPTIONS, price_per_gpu_hour=2.6)


def week5(tps=(1, 2, 4), requests=LOAD):
    rows = week5_plan.layouts(plan.load_shape("Qwen2.5-7B"), BOX, tps, requests, OPTIONS)
    return {one.short: one for one in rows}


def test_two_causes_are_named_where_neither_is_most_of_it():
    assert (
        wording.main_causes({"allreduce_latency_ms": 1.97, "overhead_ms": 1.85, "matrices_ms": 0.0})
        == "all-reduce latency 1.97 ms and fixed costs 1.85 ms"
    )
    assert (
        wording.main_causes({"allreduce_latency_ms": 3.0, "overhead_ms": 1.0, "matrices_ms": -2.0})
        == "all-reduce latency 3.00 ms"
    )
    rows = plan.tp_speedup_parts(SHAPE, BOX, [2, 8], streams=8, context=1024)
    assert "beyond a perfect share: fixed costs" in wording.where_time_goes(rows)
    assert "nothing to compare" in wording.where_time_goes(rows[:1])


def test_the_weights_of_a_gpu_are_told_without_the_rotary_table():
    said = wording.sharding(SHAPE, 4)
    assert (
        f"4 GPUs hold {plan.weight_bytes(SHAPE, 4) / 2**30:.2f} GiB" in said
        and "0.03 GiB on each GPU" in said
    )


def test_tpot_in_the_figure_is_the_one_that_gives_the_tokens_beside_it(monkeypatch):
    shown = []
    monkeypatch.setattr(style, "show", lambda fig, caption, table, name: shown.append((fig, table)))
    predictions = [
        plan.predict_speed(SHAPE, BOX, 8, 1, 1, plan.RequestMix(1024, 256, n), OPTIONS)
        for n in (4, 64, 256)
    ]
    rows = [
        {
            "layout": "TP 8",
            "streams": p.workload.concurrency,
            "tpot_ms": p.tpot_s * 1e3,
            "decode_step_ms": p.decode.total * 1e3,
            "output_tokens_per_s": p.output_tokens_per_s,
        }
        for p in predictions
    ]
    for p in predictions:  # Little's law: the clients are in the box, all the time
        answer_s = p.ttft_s + (p.workload.output_tokens - 1) * p.tpot_s
        inside = p.requests_per_s * answer_s
        assert inside == pytest.approx(p.workload.concurrency, rel=0.02)
    plots.over_batch(rows, "reading")
    left = shown[0][0].axes[0]
    assert [line.get_label() for line in left.lines] == ["TP 8", "TP 8, decode step alone"], (
        "no third line: no batch is a bend for all layouts"
    )
    assert "prompts of others in the same steps" in wording.what_grows("TP 8", predictions)


def test_both_plans_take_the_fewest_gpus_that_keep_the_goal_at_both_ends():
    for choices, goal_ms, names, unsure in (
        (week5().values(), 10, ("DP 4", "TP 2 x DP 2"), ("TP 2", "DP 2")),
        (ranked().choices, 40, ("TP 4 x DP 2", "TP 8"), ("TP 4",)),
    ):
        taken = margins.take(choices, goal_ms)
        low_ms, high_ms = margins.tpot_range_ms(taken)
        assert (taken.short, margins.within(taken, goal_ms)) == (names[0], "yes")
        assert low_ms < 1e3 * taken.prediction.tpot_s < margins.as_recorded_ms(taken) < high_ms
        fewer = [c for c in choices if c.fits and c.gpus < taken.gpus]
        assert all(margins.within(c, goal_ms) != "yes" for c in fewer), "none with fewer GPUs"
        said = wording.reason_for(choices, taken, goal_ms, by_rule=True)
        span = f"({low_ms:.1f} to {high_ms:.1f} ms, 64 requests at once)"
        assert f"{taken.short} has the fewest GPUs ({taken.gpus})" in said and span in said
        assert f"{names[1]} does so with as many GPUs, but cuts the model more" in said
        _, found, listed = said.partition("the planner cannot tell: ")
        assert found and re.findall(r"([TD]P \d) \(", listed) == list(unsure)
        assert f"first, and take what keeps {goal_ms} ms" in listed


def test_a_plan_whose_requests_wait_or_that_may_miss_says_so():
    choices = ranked().choices
    two, four = (next(c for c in choices if c.layout == (tp, 1, 1)) for tp in (2, 4))
    assert margins.within(two, 1e6) == "no" and two.at_once < 64
    assert week5_plan.ranges(two, two, 40)["within 40 ms"] == f"no: {two.at_once} of 64 run at once"
    said = wording.reason_for(choices, four, 40, by_rule=False)
    assert "TP 4 was chosen" in said and "the planner cannot tell" in said
    assert "The rule would take TP 4 x DP 2 (8 GPUs): both ends of its range keep it" in said
    for goal_ms, words in ((5, "both ends of its range miss it"), (25, "the planner cannot tell")):
        taken = margins.take(choices, goal_ms)
        said = wording.reason_for(choices, taken, goal_ms, by_rule=True)
        assert said.startswith(f"No layout stays within {goal_ms} ms") and words in said
        ends = [margins.tpot_range_ms(c)[1] for c in choices if c.fits]
        assert margins.tpot_range_ms(taken)[1] == min(ends), "no other comes nearer"
    ranking = ranked()
    taken = margins.take(ranking.choices, 40)
    said = wording.by_number_alone(ranking, taken, 40)
    assert "TP 4 would do, with 4 GPUs instead of 8: a million output tokens for " in said
    assert not wording.by_number_alone(ranking, four, 40)


def test_more_gpus_say_what_they_cost_and_where_memory_is_part_of_the_gain():
    rows, choices = week5(), ranked()
    one, four = rows["TP 1"], rows["DP 4"]
    each = [c.prediction.output_tokens_per_s / c.gpus for c in (four, one)]
    assert f"{each[0]:,.0f} output tokens/s" in wording.cost(four, one)
    assert f"a token takes {each[1] / each[0]:.1f} times the GPU time" in wording.cost(four, one)
    expected, costs = wording.plan_in_short(four, one)
    assert "with 4 times the GPUs" in expected and costs in wording.concerns(BOX, four, one)
    assert wording.plan_in_short(one, one) == [] and not wording.cost(one, one)
    [expected] = wording.plan_in_short(margins.take(choices.choices, 40), choices.smallest)
    waiting = choices.smallest.at_once
    assert f"TP 2 has KV cache for {waiting} of the 64 requests at once" in expected
    assert "this gain is memory" in expected and "GiB of weights" in wording.memory_of(four)


def test_a_plan_left_of_the_line_that_misses_says_why(monkeypatch):
    tables = []
    monkeypatch.setattr(style, "show", lambda fig, caption, table, name: tables.append(table))
    ranking = ranked()
    taken = margins.take(ranking.choices, 40.0)
    said = wording.about_choices(ranking.choices, taken, 40.0)
    assert re.search(r"A cross left of the line: TP 2.*, only \d+ of the 64 requests run", said)
    plots.choices(ranking, taken, 40.0, "reading")
    assert {row["keeps the goal"] for row in tables[0]} == {"yes", "cannot tell", "no"}
    assert ranking.thumb.short == "TP 8", "as many as the machine has"


def test_the_documentations_rule_is_held_against_a_goal_and_a_load():
    def row(name, goal_ms, requests):
        mix = plan.RequestMix(1024, 256, requests)
        ranking = plan.rank(plan.load_shape(name), BOX, mix, OPTIONS)
        return week5_plan.rule_row(name, ranking, goal_ms)

    few, many = row("Llama-3.1-8B", 10, 1), row("Llama-3.1-8B", 10, 64)
    assert few["the page's plan"] == many["the page's plan"] == "TP 1", "it knows no load"
    assert (few["keeps it"], many["keeps it"]) == ("yes", "no")
    assert many["with GPUs"] > few["with GPUs"] == 1
    large = row("Llama-3.1-70B", 40, 1)
    assert (large["the page's plan"], large["its GPUs"], large["with GPUs"]) == ("TP 8", 8, 2)
    said = wording.about_rule([few, many, large])
    assert "keeps the goal in 2 of 3 cases (in 1 of them fewer GPUs keep it too)" in said
    assert said.endswith("and in 1 it does not.")


def trial(tp, tpot_ms, allreduce_us=None, disturbed=0.0, waited=0.0):
    rows = [{"bytes": 1024, "seconds": allreduce_us / 1e6}] if allreduce_us else []
    rounds = {"tpot_ms": {1: [0.99 * tpot_ms, tpot_ms, 1.01 * tpot_ms]}}
    machine = Disturbance(disturbed, 0.0, waited_share=waited)
    return Trial(tp, 1, tpot_ms={1: tpot_ms}, allreduce=rows, rounds=rounds, disturbance=machine)


def test_a_speedup_within_the_noise_is_no_direction():
    one = trial(1, 2.0)

    def said(predicted, two):
        return wording.slower_or_faster(predicted, layouts.speedup(one, two), one, two)

    assert "no difference" in said(0.48, trial(2, 2.01))
    assert "direction" not in said(0.48, trial(2, 2.01))
    assert "direction was wrong" in said(1.4, trial(2, 2.8))
    assert "direction was right, the size was not" in said(0.5, trial(2, 2.8))
    assert "about equal" in said(0.96, trial(2, 2.8))
    assert "lies within that" in said(2 / 2.8, trial(2, 2.8))
    assert "disturbed" not in said(1.4, trial(2, 2.8))
    assert "other programs took 40 %" in said(1.4, trial(2, 2.8, disturbed=0.4))


def test_a_speedup_is_as_disturbed_as_its_more_disturbed_trial(tmp_path):
    calm, busy = trial(1, 2.0), trial(2, 2.8, disturbed=0.4)
    store = Results("04_multi_gpu_planning", tmp_path)

    def machine(*pair):
        gain = layouts.save_speedup(store, *pair)
        saved = store.get("trial", f"{pair[1].name} against {pair[0].name}")
        assert saved["metrics"]["speedup_x"] == gain.estimate
        return saved["machine"]

    assert "disturbed" not in machine(calm, calm)
    for pair in ((calm, busy), (busy, calm)):
        assert machine(*pair)["disturbed"]
        assert "disturbed meanwhile" in wording.about_stages(layouts.speedup(*pair), *pair)


def test_why_working_memory_does_not_fall_with_more_gpus():
    model = plan.load_shape("Qwen2.5-7B")
    memories = {
        tp: plan.plan_memory(model, plan.make_box("H100-SXM", tp), tp, options=OPTIONS)
        for tp in (1, 2)
    }
    said = wording.about_memory(model, "H100-SXM", memories)
    changes = [float(more) for more in re.findall(r"[+-]\d\.\d\d", said)]
    working = [memory.shares_gib()["working memory"] for memory in memories.values()]
    assert sum(changes) == pytest.approx(working[1] - working[0], abs=0.02), "the whole change"
    assert changes[0] > 0 > changes[1], "NCCL's buffers come, activations are halved"
    assert "Working memory" not in wording.about_memory(model, "H100-SXM", {1: memories[1]})


def test_the_all_reduce_is_told_by_its_own_time_and_not_by_the_steps():
    assert "not gloo" in wording.which_allreduce(trial(2, 2.8, 5.0), "gloo", 310e-6)
    assert "too close to tell" in wording.which_allreduce(trial(2, 2.8, 200.0), "gloo", 310e-6)
    assert "could not be timed" in wording.which_allreduce(trial(2, 2.8), "gloo", 310e-6)

    def beyond(tp2_ms, waited=0.0):
        one, two = trial(1, 2.1), trial(2, tp2_ms, 5.0, waited=waited)
        said = wording.beyond_allreduce(layouts.speedup(one, two), one, two, 11)
        return " ".join(said.split())

    rest = beyond(2.8)
    assert "0.70 ms more" in rest and "0.06 ms of them" in rest
    assert "waited for a core" not in rest
    assert not beyond(2.12), "what is no difference has no cause"
    assert "waited for a core for 0.9 s in each second" in beyond(2.8, waited=0.87)
    assert "2 ranks and the engine's own process share the cores" in beyond(2.8, waited=0.87)
    assert not wording.waiting(trial(2, 2.8, disturbed=0.05, waited=0.87)), "others may be why"


@pytest.mark.parametrize(
    "after, disturbed, words",
    [
        (2.2, "", "this is no more"),
        (1.2, "", "a miss of the planner"),
        (1.2, "other programs took 40 % of the cores", "no statement about the planner"),
    ],
)
def test_a_miss_says_what_it_means(after, disturbed, words):
    row = {"what": "TP 2, TPOT, 1 stream", "quantity": "tpot_ms", "measured": 2.4, "low": 2.3}
    row |= {"high": 4.5, "before": 2.0, "after": after, "disturbed": disturbed, "fitted": False}
    base = {**row, "what": "TP 1", "measured": 2.0, "after": 2.0, "disturbed": "", "fitted": True}
    said = wording.farthest_off([base, row], on_cpu=True)
    assert words in said and "shorter than the 2.40 ms" in said
    uneven = wording.farthest_off([base, {**row, "low": 1.0}], on_cpu=True)
    assert uneven.startswith("1 of 1 predictions this run cannot judge") and "planner" not in uneven
    inside = wording.farthest_off([base, {**row, "low": 2.25, "after": 2.3, "high": 2.5}], True)
    assert inside == "1 of 1 predictions lie within their rounds after calibration."
    if not disturbed:
        near = {**row, "what": "PP 2", "before": 1.2, "after": 2.4}
        moved = wording.farthest_off([base, {**row, "after": 1.9}, near], on_cpu=True)
        assert "It was 17% off before: the calibration moved it" in moved
        busy = {**base, "disturbed": "other programs took 51 % of the cores"}
        said = wording.farthest_off([busy, row], on_cpu=True)
        assert "or the one that calibrated was disturbed (other programs took 51" in said


def test_a_calibration_is_judged_by_what_it_was_not_fitted_to():
    rounds = {"disturbed": "", "low": 9.0, "high": 12.0}
    rounds["layout"] = "TP 1"
    fitted = {"measured": 2.0, "before": 2.6, "after": 2.0, "fitted": True, **rounds}
    other = {"measured": 10.0, "before": 11.0, "after": 10.4, "fitted": False, **rounds}
    said = " ".join(wording.calibrated([fitted, other]).split())
    assert "10% off on average before, 4% after; 1 came nearer" in said and "carries over" in said
    worse = " ".join(wording.calibrated([fitted, {**other, "after": 8.0}]).split())
    assert "10% off on average before, 20% after; 0 came nearer" in worse
    assert "does not carry over" in worse and "constants as they were" in worse
    uneven = {**other, "before": 3.0, "low": 5.0, "layout": "TP 2"}
    both = wording.calibrated([fitted, other, uneven])
    assert both.endswith("Of TP 2 this run says nothing.")
    assert "The 1 times" in both and "(without 1 whose rounds are too uneven): 10% off" in both
    assert "too uneven to judge" in wording.calibrated([fitted, uneven])
    assert "says little" in wording.calibrated([fitted, {**other, "after": 10.9}])
    assert "judges nobody" in wording.calibrated([fitted, {**other, "disturbed": "a GPU ..."}])


def test_the_recorded_errors_are_one_row_for_each_machine_and_quantity():
    rows = recorded.errors() + layouts.errors_on_two_gpus()
    keys = [(row["machine"], row["quantity"]) for row in rows]
    assert len(keys) == len(set(keys)) and {quantity for _, quantity in keys} >= {
        "kv_cache_tokens",
        "tpot_ms",
        "load_output_tokens_per_s",
        "load_ttft_p50_ms",
    }
    assert all(row["mean"] <= row["worst"] for row in rows)
    worst = max(rows, key=lambda row: row["worst"])
    said = wording.about_errors(rows)
    assert f"on {worst['machine']}, {worst['worst']:.0%}" in said
    assert "prefill on two H100s" in said, "several GPUs are where it was farthest off"


def test_replicas_of_a_mixture_keep_more_tokens_where_the_cache_is_a_latent():
    model, box = plan.load_shape("DeepSeek-V3"), plan.make_box("H200-SXM", 8)
    tp, dp = (plan.plan_memory(model, box, tp, 1, 8 // tp, OPTIONS) for tp in (8, 1))
    assert 8 * dp.kv_cache_tokens > 3 * tp.kv_cache_tokens


def test_a_speed_up_counts_an_error_of_both_predictions_once():
    rows, usual = week5(), recorded.usual_error()[0]
    for name, one in list(rows.items())[1:]:
        low, high = margins.speedup_range(one, rows["TP 1"])
        times = margins.speedup(one, rows["TP 1"])
        assert low < times < high <= one.gpus, name
        if one.tp == 1:  # the same prompts in both: hardly more than the usual error
            assert low == pytest.approx(times / (1 + usual)) and high < 1.1 * times / (1 - usual)
    assert margins.speedup_range(rows["TP 2"], rows["TP 1"])[0] < 0.9 * margins.speedup(
        rows["TP 2"], rows["TP 1"]
    ), "its prompts took longer"
    worst, pairs = recorded.ratio_error()
    assert worst < usual and pairs > 1, "as about_range says"
    assert f"at most {worst:.0%} off ({pairs} pairs)" in wording.about_range()
    ranking = ranked()
    taken, smallest = margins.take(ranking.choices, 40), ranking.smallest
    low, high = margins.speedup_range(taken, smallest)
    assert low < margins.speedup(taken, smallest) < high, "more memory gains more than GPUs"
    assert margins.speedup(taken, smallest) > taken.gpus / smallest.gpus


def test_the_plan_for_week_5_has_every_layout_of_as_many_gpus_and_is_read_back():
    rows = list(week5((1, 2, 4, 16)).values())
    names = ["TP 1", "TP 2", "DP 2", "TP 4", "TP 2 x DP 2", "DP 4"]
    names += ["TP 4 x DP 2", "TP 2 x DP 4", "DP 8"]
    assert [one.short for one in rows] == names, "a machine has eight GPUs, and not sixteen"
    assert week5_plan.row(rows[0], rows[0])["speed-up"] == "1.00x"
    assert "speedup_x" not in week5_plan.metrics(rows[0], rows[0])
    about = week5_plan.of_layout(rows[5], rows[0], 10)
    assert about["speedup_of"].endswith("by 4 times the GPUs of TP 1")
    assert "at most 10 ms with 64 requests at once" in about["goal"]
    assert "Nothing is filled in yet" in wording.filled_in(rows, [], 10)
    rates = {"TP 1": 1000.0, "TP 4": 2500.0}
    found = [{"layout": name, "output_tokens_per_s": rate} for name, rate in rates.items()]
    assert wording.measured_speedup(rows[0], rows[3], found[1:]) is None
    assert wording.measured_speedup(rows[0], rows[3], found) == 2.5
    found[1]["tpot_ms"] = 9.0
    said = wording.filled_in(rows, found, 10)
    assert "TP 4: 2,500.0 tokens/s measured" in said and said.endswith("goal of 10 ms is kept")
    with pytest.raises(plan.PlanningError, match="WEEK5_TP"):
        week5_plan.layouts(SHAPE, plan.make_box("L40S", 4), [1, 2], LOAD, OPTIONS)


def test_prompts_count_as_they_were_recorded():
    rows = week5()
    for name, tp in (("DP 2", 1), ("TP 2", 2), ("TP 4", 2)):  # TP 4 borrows it
        prompt, p = margins.recorded_prompt(tp), rows[name].prediction
        more_ms = (prompt["measured"] / prompt["before"] - 1) * 1e3 * p.prompts_s
        assert margins.as_recorded_ms(rows[name]) == pytest.approx(1e3 * p.tpot_s + more_ms)


def test_tpot_under_load_by_hand_is_near_the_plan():
    """The decode step, and for each of an answer's steps its share of a prompt."""
    model = plan.load_shape("Qwen2.5-7B")
    for row in week5().values():
        n = row.prediction.streams_per_replica
        alone, both, _ = plan.prompt_beside_parts(model, BOX, row.tp, n, 1024 + 128, 1024)
        by_hand = alone["total_ms"] + n / 256 * (both["total_ms"] - alone["total_ms"])
        tpot_ms = 1e3 * row.prediction.tpot_s
        assert tpot_ms < by_hand == pytest.approx(tpot_ms, rel=0.1), row.short


def test_what_to_keep_of_the_sizes_is_said_of_the_smallest_and_the_largest():
    model = plan.load_shape("Qwen2.5-7B")
    memories = {tp: plan.plan_memory(model, plan.make_box("H100-SXM", tp), tp) for tp in (1, 4)}
    weights, tokens = wording.sizes_in_short(model, memories)
    assert weights.startswith("Weights on each GPU: 14.3 GiB with TP 1, 3.6 with TP 4, as")
    assert "0.10 GiB more than the parameters alone with TP 1" in weights
    assert "4 times the GPUs keep" in tokens
    assert len(wording.sizes_in_short(model, {1: memories[1]})) == 1, "nothing to compare"


@pytest.mark.parametrize("has_gpu, where", [(True, "H200"), (False, "cores")])
def test_a_machine_with_one_gpu_or_core_has_recorded_allreduces_to_count_with(has_gpu, where):
    rows, label = recorded.allreduce(has_gpu)
    latency, rate = fit_allreduce(rows)
    assert "recorded" in label and where in label
    assert all(latency + r["bytes"] / rate == pytest.approx(r["seconds"], rel=0.3) for r in rows)
    assert "Recorded on 2 cores" in recorded.tp2()


def test_one_small_payload_that_waited_does_not_decide_the_latency():
    sizes = [2**k for k in range(9, 25, 3)]
    for slow in sizes[:3]:
        waited = [200e-6 * (slow == size) for size in sizes]
        rows = [
            {"bytes": size, "seconds": 100e-6 + size / 2e9 + more}
            for size, more in zip(sizes, waited, strict=True)
        ]
        latency, rate = fit_allreduce(rows)
        assert latency == pytest.approx(100e-6, rel=0.15)
        assert "100 to 300 us" in wording.uneven_allreduce(rows, latency, 2e9)
        assert wording.uneven_allreduce(rows[3:], latency, rate) == ""


def test_what_was_measured_on_two_gpus_stands_beside_what_is_predicted():
    rows, label = layouts.recorded_on_two_gpus()
    assert {row["layout"] for row in rows} == {"TP 1", "TP 2", "PP 2"} and "H100" in label
    assert all(row["low"] <= row["measured"] <= row["high"] for row in rows)
    error = recorded.usual_error()[0]
    tp2 = [r for r in rows if (r["layout"], r["quantity"]) == ("TP 2", "tpot_ms")]
    assert all(abs(row["before"] / row["measured"] - 1) < error for row in tp2), "as is said"
    assert "1,025,136 tokens with TP 1" in " ".join(wording.kv_on_two_gpus().split())
    said = wording.on_two_gpus()
    assert said.count("(predicted: ") == 2
    steps = [row for row in rows if (row["quantity"], row["case"]) == ("tpot_ms", 8)]
    one, two = (row["measured"] for row in steps if row["layout"] != "PP 2")
    assert f"TP 2 {one / two:.2f} times as fast" in said


def test_the_text_about_two_gpus_is_what_their_page_shows():
    page = (REPO / "notebooks/reference/2xh100/04_multi_gpu_planning.html").read_text()
    page = " ".join(re.sub(r"<[^>]+>", " ", page).split())

    def rows(what):
        """What was predicted before the calibration, over what was measured."""
        found = re.findall(rf"{what} ([\d.]+) [\d.]+ [\d.]+ ([\d.]+) [\d.]+ \w+_ms", page)
        assert len(found) >= 2, what
        return [float(before) / float(measured) for measured, before in found]

    steps, staged = rows(r"TP \d, TPOT, \d streams?"), rows(r"PP 2, TPOT, \d streams?")
    prompts = [1 / ratio for ratio in rows(r"[TP]P 2, prefill of \d+")]
    kept = [r for r in layouts.recorded_on_two_gpus()[0] if r["quantity"] == "prefill_ms"]
    shown = re.findall(r"[TP]P \d, prefill of \d+ ([\d.]+) ([\d.]+) ([\d.]+)", page)
    keys = ("measured", "low", "high")
    assert [[r[key] for key in keys] for r in kept] == [[float(x) for x in row] for row in shown]
    notebook = (REPO / "notebooks/04_multi_gpu_planning.ipynb").read_text()
    box = plan.make_box("H100-SXM", 2)
    model = plan.load_shape("Qwen2.5-7B")
    tp1, tp2, dp2 = week5_plan.layouts(model, box, [1, 2], LOAD, OPTIONS)
    (link, concern, _), (router, *_) = (wording.concerns(box, row, tp1) for row in (tp2, dp2))
    assert "NVLink" in link and "NVLink" not in router, "replicas need no link"
    for ratios, text in ((steps, notebook), (staged, notebook), (steps, concern)):
        assert f"within {math.ceil(max(100 * abs(x - 1) for x in ratios))} %" in text
    two = [f"{r['measured'] / r['before']:.1f}" for r in kept if r["layout"] == "TP 2"]
    assert f"prompts of 256 and 1,024 tokens took {' and '.join(two)} times as long" in concern
    one = [f"{r['measured'] / r['before']:.1f}" for r in kept if r["layout"] == "TP 1"]
    assert f"{one[0]} times as long as predicted with 256 tokens, {one[1]} times" in notebook
    assert f"{min(prompts):.1f} to {max(prompts):.1f} times as long as predicted" in notebook


def test_an_open_verdict_says_what_it_rules_out_and_what_would_decide_it():
    wide = gain_of_groups([2.0, 2.1, 2.2], [1.9, 4.0, 2.1], "lower")
    assert wide.verdict == "open"
    speedups, calm = {"gloo": 0.05, "vLLM's own": 1.0}, trial(2, 2.1, waited=0.9)
    said = wording.undecided(wide, speedups, trial(2, 2.1, disturbed=0.4))
    assert "rules out 0.05 (gloo)." in said and "A quiet machine may decide it" in said
    assert "Both predictions lie in it" in wording.undecided(wide, {"gloo": 0.9}, calm)
    assert "waited for a core for 0.9 s" in wording.undecided(wide, speedups, calm)
    clear = gain_of_groups([2.0, 2.01, 2.02], [4.0, 4.01, 4.02], "lower")
    assert wording.undecided(clear, {"gloo": 0.5}, calm) == ""


def test_the_formula_by_hand_is_near_the_planner_for_a_dense_model():
    model, box = plan.load_shape("Qwen2.5-7B"), plan.make_box("H100-SXM", 4)
    rows = plan.tp_speedup_parts(model, box, (1, 2), streams=8, context=1024)
    said = wording.about_steps(rows, {1: rows[0]["total_ms"], 2: 1.1 * rows[1]["total_ms"]})
    assert "within 10% of these bars" in said and "as fast as TP 1." in said


def test_the_layout_that_overtakes_is_named_with_its_number_of_requests():
    model, box = plan.load_shape("Qwen2.5-7B"), plan.make_box("H100-SXM", 4)
    mixes = [plan.RequestMix(1024, 256, n) for n in (1, 256)]
    predicted = {
        name: [plan.predict_speed(model, box, tp, 1, dp, mix) for mix in mixes]
        for name, tp, dp in (("TP 4", 4, 1), ("DP 4", 1, 4))
    }
    overtaken = (
        "TP 4 is predicted to give most tokens/s with up to 1 request at once, DP 4 with 256"
    )
    assert overtaken in wording.about_batches(predicted)
    assert " at once, " not in wording.about_batches({"TP 4": predicted["TP 4"]})
    assert "PP 4: does not fit" in wording.about_batches(predicted)
    whole = {**predicted, "PP 4": predicted["DP 4"]}
    assert "does not fit" not in wording.about_batches(whole)


def test_a_long_command_breaks_before_its_options_only():
    model = plan.load_shape("Qwen2.5-7B")
    text = wording.launch_lines(plan.commands(model, 4, 2, nodes=2))
    assert max(map(len, text.splitlines())) <= wording.LONG
    assert text.splitlines()[1] == "      --tensor-parallel-size 4 \\"
    assert "\n" not in wording.launch_lines(plan.commands(model, 4))
