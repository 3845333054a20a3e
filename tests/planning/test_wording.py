"""Sentences and figures of notebook 4: each says what the numbers beside it say."""

import re

import numpy as np
import pytest

from helpers import REPO
from helpers import planning as plan
from helpers.display import figures as style
from helpers.planning import layouts, margins, plots, recorded, week5_plan, wording
from helpers.planning.layouts import Trial
from helpers.results import Results
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


def test_two_causes_are_named_where_the_second_is_something():
    assert (
        wording.main_causes({"allreduce_latency_ms": 1.97, "overhead_ms": 1.85, "matrices_ms": 0.0})
        == "all-reduce latency 1.97 ms and fixed costs 1.85 ms"
    )
    assert (
        wording.main_causes({"allreduce_latency_ms": 3.0, "overhead_ms": 0.0, "matrices_ms": -2.0})
        == "all-reduce latency 3.00 ms"
    )
    rows = plan.tp_speedup_parts(SHAPE, BOX, [2, 8], streams=8, context=1024)
    assert "beyond a perfect share: fixed costs" in wording.where_time_goes(rows)
    assert "nothing to compare" in wording.where_time_goes(rows[:1])


def test_the_weights_of_a_gpu_are_told_without_the_rotary_table():
    said = wording.sharding(SHAPE, 4)
    assert f"4 GPUs hold {plan.weight_bytes(SHAPE, 4) / 2**30:.2f} GiB" in said
    assert said.endswith("Whole on every GPU: norms.")


def test_tpot_in_the_figure_is_the_one_that_gives_the_tokens_beside_it(monkeypatch):
    shown = []
    monkeypatch.setattr(style, "show", lambda fig, caption, table, name: shown.append((fig, table)))
    predictions = [
        plan.predict_speed(SHAPE, BOX, 8, 1, 1, plan.RequestMix(1024, 256, n), OPTIONS)
        for n in (4, 64, 256)
    ]
    for p in predictions:  # Little's law: the clients are in the box, all the time
        answer_s = p.ttft_s + (p.workload.output_tokens - 1) * p.tpot_s
        inside = p.requests_per_s * answer_s
        assert inside == pytest.approx(p.workload.concurrency, rel=0.02)
    plots.over_batch({"TP 8": predictions}, "reading")
    left = shown[0][0].axes[0]
    assert [line.get_label() for line in left.lines] == ["TP 8", "TP 8, decode step alone"], (
        "no third line: no batch is a bend for all layouts"
    )
    assert "prompts of others in the same steps" in wording.what_grows("TP 8", predictions)


def test_both_plans_take_the_fewest_gpus_that_keep_the_goal_at_both_ends():
    rows, _ = margins.beside_load()
    copies = [row["tpot_ms"] / row["expected_tpot_ms"] for row in rows if row["tp"] == 1]
    assert all(abs(times - 1) < recorded.usual_error()[0] / 2 for times in copies)
    gave = {row["layout"]: f"gave {row['speedup']:.2f} times the tokens/s of TP 1" for row in rows}
    first = (
        "copies on one GPU go first: under the load recorded on 4 x NVIDIA H200, one run of each, "
        f"DP 4 {gave['DP 4']}"
    )
    for choices, goal_ms, names, unsure, tie in (
        (week5().values(), 10, ("DP 4", "TP 2 x DP 2"), ("TP 2", "DP 2"), first),
        (ranked().choices, 40, ("TP 8", "TP 4 x DP 2"), ("TP 4",), "only a measurement tells"),
    ):
        taken = margins.take(choices, goal_ms)
        low_ms, high_ms = margins.tpot_range_ms(taken)
        assert (taken.short, margins.within(taken, goal_ms)) == (names[0], "yes")
        assert low_ms < 1e3 * taken.prediction.tpot_s < high_ms
        fewer = [c for c in choices if c.fits and c.gpus < taken.gpus]
        assert all(margins.within(c, goal_ms) != "yes" for c in fewer), "none with fewer GPUs"
        said = wording.reason_for(choices, taken, goal_ms, by_rule=True)
        span = f"{taken.short} ({low_ms:.1f} to {high_ms:.1f} ms)"
        assert f"{span} has the fewest GPUs ({taken.gpus})" in said
        assert "at both ends of its range, 64 requests at once." in said
        [other] = [c for c in choices if c.short == names[1]]
        far_ms = margins.tpot_range_ms(other)[1]
        assert f"By its far end {names[1]} (up to {far_ms:.1f} ms) is level with it" in said
        assert tie in said
        assert far_ms > high_ms or taken.tp == 1
        fewer = f"With fewer GPUs {' and '.join(unsure)} may keep it, too"
        assert said.endswith(f"{fewer}: only measuring decides.")
        if taken.tp == 1:
            assert f"and {names[1]} {gave[names[1]]} (expected: 1.99)" in said


def test_what_to_measure_is_one_order_and_begins_with_what_was_recorded_to_keep_the_goal():
    rows = week5()
    ran = {row["layout"]: row["tpot_ms"] for row in margins.beside_load(margins.HELD)[0]}
    two, copies = (f"{name} (recorded: {ran[name]:.1f} ms)" for name in ("TP 2", "DP 2"))

    def span(name):
        low_ms, high_ms = margins.tpot_range_ms(rows[name])
        return f"{name} ({low_ms:.1f} to {high_ms:.1f} ms)"

    def order(chosen, goal_ms, choices=rows):
        said = wording.order(choices.values(), choices[chosen], goal_ms)
        listed, why = said.split(f", to the first that keeps {goal_ms:g} ms: ")
        assert why.startswith("those with fewest GPUs come first.")
        assert why.endswith("on 2 x NVIDIA H100 80GB HBM3, one run of each.") == (
            "recorded" in listed
        )
        return listed.split(", then ")

    for chosen in ("TP 2", "DP 2", "DP 4", "TP 1"):
        assert order(chosen, 10) == [two, copies, span("DP 4")], "whoever chooses"
    assert order("TP 4", 10) == [two, copies, span("DP 4"), span("TP 4")]
    assert order("DP 4", 9.3) == [two, span("DP 4")], "DP 2 was recorded to miss it"
    assert order("DP 2", 9.3)[1] == copies, "but it was chosen"
    assert order("TP 1", 5) == [span(margins.take(rows.values(), 5).short)]
    other = week5(requests=plan.RequestMix(1024, 256, 32))
    assert all(margins.on_record(choice) is None for choice in other.values()), "another load"
    assert margins.recorded_speedups(other["TP 2"], other["TP 1"]) == []
    assert not any("recorded" in one for one in order("TP 2", 10, other))


def test_copies_on_one_gpu_go_first_only_where_they_are_level(monkeypatch):
    rows = week5()
    cut, copies = rows["TP 2 x DP 2"], rows["DP 4"]
    far = {cut.short: 8.0, copies.short: 9.0}
    monkeypatch.setattr(margins, "tpot_range_ms", lambda c, m: (5.0, far[c.short]))
    assert margins.take([cut, copies], 10) is copies
    far[copies.short] = 9.5
    assert margins.take([cut, copies], 10) is cut, "beyond the usual error"


def test_the_factor_of_one_load_decides_between_the_two_layouts_of_four_gpus():
    rows = week5()
    assert margins.take(rows.values(), 10, m=1).short == "TP 2 x DP 2"
    assert margins.take(rows.values(), 12).short == "DP 2", "two more ms, half the GPUs"


def test_a_plan_whose_requests_wait_or_that_may_miss_says_so():
    choices = ranked().choices
    two, four = (next(c for c in choices if c.layout == (tp, 1, 1)) for tp in (2, 4))
    assert margins.within(two, 1e6) == "no" and two.at_once < 64
    assert wording.verdict_of(two, 40) == f"only {two.at_once} of the 64 requests run at once"
    said = wording.reason_for(choices, four, 40, by_rule=False)
    assert "TP 4 was chosen" in said and "the planner cannot tell" in said
    assert "The rule would take TP 8 (8 GPUs): both ends of its range keep it" in said
    for goal_ms, words in ((5, "both ends of its range miss it"), (25, "the planner cannot tell")):
        taken = margins.take(choices, goal_ms)
        said = wording.reason_for(choices, taken, goal_ms, by_rule=True)
        assert said.startswith(f"No layout stays within {goal_ms} ms") and words in said
        ends = [margins.tpot_range_ms(c)[1] for c in choices if c.fits and c.at_once >= 64]
        assert margins.tpot_range_ms(taken)[1] == min(ends), "it comes nearest"
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


def test_every_plan_that_fits_is_in_the_figure_and_one_left_of_the_goal_may_miss_it(monkeypatch):
    tables = []
    monkeypatch.setattr(style, "show", lambda fig, caption, table, name: tables.append(table))
    ranking = ranked()
    taken = margins.take(ranking.choices, 40.0)
    assert "left of the goal does not run all 64" in wording.about_choices(taken, 40.0)
    left = [c for c in ranking.choices if c.fits and 1e3 * c.prediction.tpot_s < 40]
    misses = [c for c in left if margins.within(c, 40.0) == margins.MISSES]
    assert misses and all(c.at_once < 64 for c in misses)
    plots.choices(ranking, taken, 40.0, "reading")
    assert {row["keeps the goal, by a borrowed range"] for row in tables[0]} == {
        "yes",
        "cannot tell",
        "no",
    }
    assert ranking.thumb.short == "TP 8", "as many as the machine has"


def trial(tp, tpot_ms, allreduce_us=None, disturbed=0.0, waited=0.0):
    rows = [{"bytes": 1024, "seconds": allreduce_us / 1e6}] if allreduce_us else []
    rounds = {"tpot_ms": {1: [0.99 * tpot_ms, tpot_ms, 1.01 * tpot_ms]}}
    machine = Disturbance(disturbed, 0.0, waited_share=waited)
    return Trial(tp, 1, allreduce=rows, rounds=rounds, disturbance=machine)


def test_two_rounds_that_waited_do_not_set_an_end_of_the_range_and_three_do():
    """Why there are so many."""
    rounds, waited = [5.0 + n / 100 for n in range(layouts.ROUNDS)], 50.0

    def low(slow):
        times = {name: {"tpot_ms": {1: [*rounds]}} for name in ("one", "two")}
        times["two"]["tpot_ms"][1][:slow] = [waited] * slow
        made = [Trial(1, 1, rounds=of) for of in times.values()]
        return layouts.speedup(*made).low

    assert low(2) > 0.9 and low(3) < 0.2


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


def test_what_else_is_told_by_who_waited_for_a_core():
    one = trial(1, 2.1, waited=0.12)

    def said(two, cores=2):
        return wording.what_else(layouts.speedup(one, two), one, two, cores)

    crowded = said(trial(2, 2.8, waited=0.93))
    assert "waited for a core for 0.93 s in each second, all together, those of TP 1" in crowded
    assert "for 0.12. TP 2 has three processes on 2 cores" in crowded
    assert crowded.endswith("a machine with more cores would tell whether they are why.")
    assert "8 cores" not in said(trial(2, 2.8, waited=0.93), cores=8)
    assert "whether" not in said(trial(2, 1.4, waited=0.93)), "faster: nothing to explain"
    assert "hardly" in said(trial(2, 2.8, waited=0.1))
    assert "Other programs took 5% of the cores" in said(trial(2, 2.8, disturbed=0.05, waited=0.93))
    assert "not known" in said(trial(2, 2.8, waited=None))
    busy = trial(1, 2.1, disturbed=0.3, waited=0.12), trial(2, 2.8, waited=0.1)
    assert wording.what_else(layouts.speedup(*busy), *busy, 2).startswith("Other programs took 30%")
    slow = trial(1, 4.0, waited=1.3)
    about = wording.about_stages(layouts.speedup(one, slow), one, slow)
    assert about.startswith("PP 2, which has no all-reduce")
    assert "waited for a core for 1.30 s in each second, those of TP 1 for 0.12. What" in about
    assert about.endswith("this notebook does not measure.")
    assert "longer" not in wording.about_stages(layouts.speedup(one, one), one, one)


def time_of(layout, predicted, low=10.0, high=20.0, disturbed=""):
    row = {"what": "step of 1 request", "quantity": "tpot_ms", "measured": 12.0, "layout": layout}
    return {**row, "low": low, "high": high, "predicted": predicted, "disturbed": disturbed}


def test_the_planner_is_counted_by_the_rounds_and_its_worst_by_the_median():
    times = [time_of("TP 1", 11.0), time_of("TP 2", 8.0), time_of("PP 2", 25.0)]
    said = wording.beside_planner(times)
    assert said.startswith("1 of 3 predictions lie within the measured rounds.")
    assert "disturbed" not in said
    busy = wording.beside_planner([*times, time_of("TP 2", 8.0, disturbed="a GPU ...")])
    assert busy.endswith("Mind that the machine was disturbed meanwhile (TP 2: a GPU ...).")


def test_a_speed_up_counts_an_error_of_one_prediction():
    rows, usual = week5(), recorded.usual_error()[0]
    for name, one in list(rows.items())[1:]:
        low, high = margins.speedup_range(one, rows["TP 1"])
        times = margins.speedup(one, rows["TP 1"])
        assert low < times < high, name
        cut = 1.0 if one.tp == 1 else margins.longer(1) / margins.longer(2)
        assert low == pytest.approx(cut * times / (1 + usual)), "the load took cut models longer"
        assert high == pytest.approx(times / (1 - usual))
    rows, where = margins.beside_load()
    said = wording.load_in_short(rows)
    copies = [row for row in rows if row["tp"] == 1]
    times = sorted(row["tpot_ms"] / row["expected_tpot_ms"] for row in copies)
    assert (
        f"TPOT was {times[0]:.2f} to {times[-1]:.2f} times what was expected where a copy" in said
    )
    assert times[-1] == margins.longer(1) < margins.longer(2) == margins.longer(4)
    fastest = min(rows, key=lambda row: row["tpot_ms"])
    came = f"The fastest was {fastest['layout']} (TPOT {fastest['tpot_ms']:.1f} ms, "
    assert f"{came}{fastest['speedup']:.2f} times" in said and "x NVIDIA" in where
    ttft = [row["ttft_ms"] for row in rows if row["layout"] == f"TP {row['tp']}"]
    assert ttft == sorted(ttft), "as the planner's second concern says"
    assert wording.fastest_under_load(rows[:1]).endswith("as expected.")
    ranking = ranked()
    taken, smallest = margins.take(ranking.choices, 40), ranking.smallest
    low, high = margins.speedup_range(taken, smallest)
    assert low < margins.speedup(taken, smallest) < high, "more memory gains more than GPUs"
    assert margins.speedup(taken, smallest) > taken.gpus / smallest.gpus


def test_the_ranges_are_held_against_a_load_that_they_do_not_rest_on():
    rows, where = margins.beside_load(margins.HELD)
    assert [row["layout"] for row in rows] == ["TP 1", "TP 2", "DP 2"] and "H100" in where
    said = wording.held_in_short(rows)
    assert said.startswith("3 of 3 ranges held: TPOT was 0.97 to 0.99 times what was expected.")
    assert f"TP 2 gave {rows[1]['speedup']:.2f} times the tokens/s of TP 1 (expected: 1.45)" in said
    plans = week5((1, 2))
    for row in rows:
        assert row["may_tpot_ms"] == margins.tpot_range_ms(plans[row["layout"]])
    far = {**rows[0], "tpot_ms": 99.0}
    assert wording.held_in_short([far, *rows[1:]]).startswith("2 of 3 ranges held")
    [concern] = [c for c in wording.concerns(BOX, plans["TP 2"], plans["TP 1"]) if "TTFT" in c]
    one, two = (row["ttft_ms"] for row in rows[:2])
    assert two < one and "fell on the latter" in concern


def test_the_plan_for_week_5_has_every_layout_of_as_many_gpus_and_is_read_back():
    rows = list(week5((1, 2, 4, 16)).values())
    names = ["TP 1", "TP 2", "DP 2", "TP 4", "TP 2 x DP 2", "DP 4"]
    assert [one.short for one in rows] == names, "a machine has eight GPUs, and not sixteen"
    assert week5_plan.row(rows[0], rows[0])["speed-up"] == "1.00x"
    assert "speedup_x" not in week5_plan.metrics(rows[0], rows[0])
    about = week5_plan.of_layout(rows[5], rows[0], 10)
    assert about["speedup_of"] == (
        "output tokens/s of DP 4 over TP 1, 64 requests at once, with 4 times the GPUs"
    )
    dp4 = next(row for row in margins.beside_load()[0] if row["layout"] == "DP 4")
    there = f"{dp4['speedup']:.2f}x on 4 x NVIDIA H200 (TPOT {dp4['tpot_ms']:.1f} ms)"
    assert about["ran"] == f"recorded, one run each: {there}"
    ran = week5_plan.of_layout(rows[1], rows[0], 10)["ran"]
    assert ran.startswith(
        "recorded, one run each: 1.43x on 2 x NVIDIA H100 80GB HBM3 (TPOT 8.9 ms)"
    )
    assert ran.endswith(", 1.14x on 4 x NVIDIA H200 (TPOT 9.4 ms)"), "and the one that is further"
    assert "at most 10 ms with 64 requests at once" in about["goal"]
    assert "Nothing is filled in yet" in wording.filled_in(rows, [], 10)
    rates = {"TP 1": 1000.0, "TP 4": 2500.0}
    found = [{"layout": name, "output_tokens_per_s": rate} for name, rate in rates.items()]
    assert wording.measured_speedup(rows[0], rows[3], found[1:]) is None
    assert wording.measured_speedup(rows[0], rows[3], found) == 2.5
    found[1] |= {"tpot_ms": 9.0, "ttft_ms": 150.0}
    said = wording.filled_in(rows, found, 10)
    assert "TP 4: 2,500.0 tokens/s measured" in said and said.endswith("goal of 10 ms is kept")
    assert "TP 4: 150.0 ms TTFT measured\n" in said
    with pytest.raises(plan.PlanningError, match="WEEK5_TP"):
        week5_plan.layouts(SHAPE, plan.make_box("L40S", 4), [1, 2], LOAD, OPTIONS)


def test_the_far_end_takes_as_long_as_the_recorded_load():
    rows, usual = week5(), recorded.usual_error()[0]
    for name, gpus in (("DP 2", 1), ("TP 2", 2), ("TP 2 x DP 2", 4)):
        tpot_ms = 1e3 * rows[name].prediction.tpot_s
        ends = tpot_ms / (1 + usual), margins.longer(gpus) * tpot_ms / (1 - usual)
        assert margins.tpot_range_ms(rows[name]) == pytest.approx(ends)


def test_tpot_under_load_by_hand_is_near_the_plan():
    """The decode step, and for each of an answer's steps its share of a prompt."""
    model = plan.load_shape("Qwen2.5-7B")
    for row in week5().values():
        n = row.prediction.streams_per_replica
        alone, both, _ = plan.prompt_beside_parts(model, BOX, row.tp, n, 1024 + 128, 1024)
        by_hand = alone["total_ms"] + n / 256 * (both["total_ms"] - alone["total_ms"])
        tpot_ms = 1e3 * row.prediction.tpot_s
        assert tpot_ms < by_hand == pytest.approx(tpot_ms, rel=0.1), row.short


def test_what_a_prompt_adds_is_told_by_cause():
    model = plan.load_shape("Qwen2.5-7B")
    added, steps, whole = {}, {}, []
    for tp in (1, 2, 4):
        alone, both, _ = plan.prompt_beside_parts(model, BOX, tp, 64, 1024 + 128, 1024)
        whole.append(both["total_ms"])
        steps[f"TP {tp}"] = alone, both
        added[f"TP {tp}"] = {part: both[part] - alone[part] for part in both if "_ms" in part}
    said = wording.what_tp_shares(steps)
    weights, waits = added["TP 1"]["matrices_ms"], added["TP 4"]["host_ms"]
    assert f"weights goes from {weights:.1f} to {added['TP 4']['matrices_ms']:.1f} ms" in said
    assert f"above all waiting for the CPU ({waits:.1f} ms) and" in said
    p = [part["total_ms"] for part in added.values()]
    assert f"p is {p[0]:.1f} with TP 1, {p[1]:.1f} with TP 2, {p[2]:.1f} with TP 4" in said
    assert "each rank's CPU launches" in said
    assert whole[0] > whole[1] == pytest.approx(whole[2]), "as the notebook says of t + p"
    assert "each rank's" not in wording.what_tp_shares({"TP 1": steps["TP 1"]})


def test_week_5_says_why_it_measures_tensor_parallelism():
    rows = week5()
    said = wording.why_tp(rows["TP 4"], rows["TP 1"])
    assert said.startswith("With TP 4 each GPU reads a quarter of the weights in a step")
    low, high = margins.speedup_range(rows["TP 4"], rows["TP 1"])
    assert f"expects {low:.2f} to {high:.2f} times the tokens/s of TP 1." in said
    assert "prompt" not in wording.why_tp(rows["TP 1"], rows["TP 1"])


def test_the_end_holds_this_machine_beside_the_recorded_one():
    rows, pair = week5(), (trial(1, 2.0), trial(2, 2.8, disturbed=0.4))
    gain = layouts.speedup(*pair)
    here, expected = wording.in_the_end(rows["DP 4"], rows["TP 1"], gain, *pair)
    assert f"one request: {gain.sentence()} on this machine, in one start of each; " in here
    assert here.endswith("(TP 2: other programs took 40 % of the cores).")
    assert [expected] == wording.plan_in_short(rows["DP 4"], rows["TP 1"])[:1]
    assert "not measured on" in wording.in_the_end(rows["DP 4"], rows["TP 1"], None, pair[0])[0]


def test_what_to_keep_of_the_sizes_is_said_of_the_smallest_and_the_largest():
    model = plan.load_shape("Qwen2.5-7B")
    memories = {tp: plan.plan_memory(model, plan.make_box("H100-SXM", tp), tp) for tp in (1, 4)}
    weights, tokens = wording.sizes_in_short(model, memories)
    assert weights == "Weights on each GPU: 14.3 GiB with TP 1, 3.6 with TP 4."
    assert "4 times the GPUs keep" in tokens
    assert len(wording.sizes_in_short(model, {1: memories[1]})) == 1, "nothing to compare"


@pytest.mark.parametrize("has_gpu, where", [(True, "H200"), (False, "cores")])
def test_a_machine_with_one_gpu_or_core_has_recorded_allreduces_to_count_with(has_gpu, where):
    rows, label = recorded.allreduce(has_gpu)
    sizes, seconds = zip(*((r["bytes"], r["seconds"]) for r in rows), strict=True)
    line = np.polyfit(sizes, seconds, 1, w=1 / np.array(seconds))
    assert "recorded" in label and where in label
    assert np.polyval(line, sizes) == pytest.approx(seconds, rel=0.3)
    assert "Recorded on 2 cores" in recorded.tp2()


def test_what_was_measured_on_two_gpus_stands_beside_what_is_predicted():
    rows, label = layouts.recorded_on_two_gpus()
    assert {row["layout"] for row in rows} == {"TP 1", "TP 2", "PP 2"} and "H100" in label
    assert all(row["low"] <= row["measured"] <= row["high"] for row in rows)
    error = recorded.usual_error()[0]
    tp2 = [r for r in rows if (r["layout"], r["quantity"]) == ("TP 2", "tpot_ms")]
    assert all(abs(row["predicted"] / row["measured"] - 1) < error for row in tp2), "as is said"
    assert "1,025,136 tokens with TP 1" in " ".join(wording.kv_on_two_gpus().split())
    said = wording.on_two_gpus()
    assert said.count("(predicted: ") == 2
    steps = [row for row in rows if (row["quantity"], row["case"]) == ("tpot_ms", 8)]
    one, two, pp2 = ([r for r in steps if r["layout"] == x][0] for x in ("TP 1", "TP 2", "PP 2"))
    for name, row in (("TP 2", two), ("PP 2", pp2)):
        took, high = one["measured"] / row["measured"], one["high"] / row["low"]
        assert f"{name} {took:.2f} times as fast" in said
        assert high < one["predicted"] / row["predicted"], "less than predicted, as is said"
    assert pp2["low"] > one["high"], "slower, as the notebook says"


def test_the_text_about_two_gpus_is_what_their_page_shows():
    page = (REPO / "notebooks/reference/2xh100/04_multi_gpu_planning.html").read_text()
    page = " ".join(re.sub(r"<[^>]+>", " ", page).split())

    row_of_four = r"([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) (?:tpot|prefill)_ms"
    found = re.findall(row_of_four, page)
    recorded_rows = layouts.recorded_on_two_gpus()[0]
    shown = [[float(x) for x in row] for row in found]
    for row in recorded_rows:
        wanted = [row[key] for key in ("measured", "low", "high", "predicted")]
        assert pytest.approx(wanted, rel=0.01) in shown, row

    box = plan.make_box("H100-SXM", 2)
    model = plan.load_shape("Qwen2.5-7B")
    tp1, tp2, dp2 = week5_plan.layouts(model, box, [1, 2], LOAD, OPTIONS)
    (link, concern, *_), (router, *_) = (wording.concerns(box, row, tp1) for row in (tp2, dp2))
    assert f"TPOT was up to {margins.longer(2):.2f} times what was expected" in concern
    assert "NVLink" in link and "Replicas" not in link and "Replicas count on" in router
    said = wording.how_long(recorded_rows, "two H100s")
    spans = re.findall(r"([\d.]+) to ([\d.]+) times", said)
    for span, quantity in zip(spans, ("tpot_ms", "prefill_ms"), strict=True):
        took = [r["measured"] / r["predicted"] for r in recorded_rows if r["quantity"] == quantity]
        assert [float(x) for x in span] == pytest.approx([min(took), max(took)], abs=0.01)


def test_a_title_names_what_the_planner_misses_most():
    rows, _ = layouts.recorded_on_two_gpus()
    assert wording.most_off(rows) == "Prompts took 1.2 to 2.1 times as long as predicted"
    steps = [time_of("TP 1", 4.0), time_of("TP 2", 6.0)]
    assert wording.most_off(steps) == "Decode steps took 2.0 to 3.0 times as long as predicted"


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
    assert wording.speed_in_short(predicted)[1].startswith(overtaken)
    assert "PP 4: does not fit" in wording.about_batches(predicted)
    whole = {**predicted, "PP 4": predicted["DP 4"]}
    assert "does not fit" not in wording.about_batches(whole)


def test_a_long_command_breaks_before_its_options_only():
    model = plan.load_shape("Qwen2.5-7B")
    text = wording.launch_lines(plan.commands(model, 4, 2, nodes=2))
    assert max(map(len, text.splitlines())) <= wording.LONG
    assert text.splitlines()[1] == "      --tensor-parallel-size 4 \\"
    assert "\n" not in wording.launch_lines(plan.commands(model, 4))
