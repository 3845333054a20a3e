"""Sentences and figures of notebook 4: each says what the numbers beside it say."""

import re

import pytest

from helpers import planning as plan
from helpers.display import figures as style
from helpers.planning import plots, recorded, wording
from helpers.planning.allreduce import fit_allreduce

SHAPE, BOX, OPTIONS = (
    plan.load_shape("Llama-3.1-70B"),
    plan.make_box("H100-SXM", 8),
    plan.EngineOptions(max_model_len=8192),
)


def ranked(tpot_ms):
    return plan.rank(
        SHAPE,
        BOX,
        plan.RequestMix(1024, 256, 64),
        OPTIONS,
        plan.Goal(tpot_ms=tpot_ms, prefer="price"),
        price_per_gpu_hour=2.6,
    )


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
    assert "all-reduce latency 1.97 ms and fixed costs 1.85 ms" in wording.where_time_goes(rows)
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
            "tpot_ms": p.mixed_tpot_s * 1e3,
            "decode_step_ms": p.tpot_s * 1e3,
            "output_tokens_per_s": p.output_tokens_per_s,
        }
        for p in predictions
    ]
    assert all(
        row["streams"] / row["tpot_ms"] * 1e3 == pytest.approx(row["output_tokens_per_s"])
        for row in rows
    )
    plots.over_batch(rows, "reading")
    left = shown[0][0].axes[0]
    assert [line.get_label() for line in left.lines] == ["TP 8", "TP 8, decode step alone"], (
        "no third line: no batch is a bend for all layouts"
    )
    assert "prefill between the steps" in wording.what_grows("TP 8", predictions)


def test_what_the_planners_error_cannot_decide_is_said():
    error = recorded.tpot_error()
    assert 0.01 < error < 0.15
    said = wording.close_calls(ranked(40.0), 40.0, 0.05)
    assert (
        said[0].startswith("TP 4 x PP 1 x DP 1 misses the limit by 0.3 ms")
        and "measure it first" in said[0]
        and "4 GPUs instead of 8" in said[0]
    )
    assert said[-1].startswith("TP 4 x PP 2 x DP 1 differs by 0.2%")
    assert not [s for s in wording.close_calls(ranked(40.0), 40.0, 0.001)], (
        "an exact planner would have decided"
    )
    assert "keeps the limit by 0.2 ms only" in wording.close_calls(ranked(28.5), 28.5, 0.05)[0]


def test_a_plan_left_of_the_line_that_misses_says_why(monkeypatch):
    tables = []
    monkeypatch.setattr(style, "show", lambda fig, caption, table, name: tables.append(table))
    ranking = ranked(40.0)
    assert re.search(
        r"TP 2 x PP 1 x DP 1: only \d+ of 64 requests run at once",
        wording.about_choices(ranking, 40.0),
    )
    plots.choices(ranking, 40.0, "reading")
    assert all(bool(row["why not"]) != row["meets the goal"] for row in tables[0])


def test_a_goal_that_nothing_meets_says_why():
    ranking = plan.rank(
        SHAPE,
        plan.make_box("L40S", 4),
        plan.RequestMix(1024, 256, 64),
        OPTIONS,
        plan.Goal(prefer="latency"),
    )
    assert (
        ranking.best is None
        and "requests run at once" in wording.disagreements([("70B", ranking)])[0]["ranking"]
    )


def test_a_speedup_within_the_noise_is_no_direction():
    assert "no difference above 10%" in wording.slower_or_faster(
        0.48, 0.98
    ) and "direction" not in wording.slower_or_faster(0.48, 0.98)
    assert "direction was wrong" in wording.slower_or_faster(1.4, 0.7)


@pytest.mark.parametrize("has_gpu, where", [(True, "H200"), (False, "cores")])
def test_a_machine_with_one_gpu_or_core_has_recorded_allreduces_to_count_with(has_gpu, where):
    rows, label = recorded.allreduce(has_gpu)
    latency, rate = fit_allreduce(rows)
    assert "recorded" in label and where in label
    assert all(latency + r["bytes"] / rate == pytest.approx(r["seconds"], rel=0.3) for r in rows)
    assert "Recorded on 2 cores" in recorded.tp2()
