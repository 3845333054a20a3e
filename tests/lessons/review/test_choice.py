"""helpers/lessons/review: which max_num_seqs is chosen, and what is said of it.

The engine is replaced here; notebook 1's test runs the real one.
"""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace

import nbformat
import pytest

from helpers import REPO
from helpers.lessons.puzzles import tuning
from helpers.lessons.review import choice, wording
from helpers.run.classroom import flags
from helpers.verdicts.gain import MARGIN, t_95
from helpers.verdicts.machine import Disturbance


@dataclass
class Run:
    metrics: dict
    counters: dict = field(default_factory=lambda: {"num_preemptions": 0})
    disturbance: Disturbance = field(default_factory=lambda: Disturbance(0.0, 0.0))
    requests: list = field(default_factory=list)


def in_turn(speeds: dict[int, tuple[float, float]]) -> choice.InTurn:
    """Three runs of each, a little more or less each time; (tokens/s, TPOT ms).

    One at a time is 100 tokens/s and 2 ms.
    """
    runs = {1: [], **{value: [] for value in speeds}}
    for turn in range(3):
        for value, (speed, tpot) in {1: (100.0, 2.0), **speeds}.items():
            wobble = 1 + 0.02 * ((turn + value) % 3 - 1)
            numbers = {"output_tokens_per_s": speed * wobble, "tpot_ms_p50": tpot * wobble}
            numbers |= {"requests": 16, "input_tokens": 1536, "output_tokens": 1536}
            runs[value].append(Run(numbers))
    return choice.InTurn(runs)


def source_of(cell_id: str) -> str:
    """The code of a cell of notebook 1."""
    cells = nbformat.read(REPO / "notebooks/01_review.ipynb", as_version=4).cells
    [cell] = [cell for cell in cells if cell.id == cell_id]
    return cell.source


def ranges_in(turns: choice.InTurn) -> dict:
    """The names of notebook 1 after the cell that works out the ranges."""
    names = {"turns": turns, "runs": turns.runs, "together": turns.most, "choice": choice}
    names |= {"t_95": t_95, "MARGIN": MARGIN}
    exec("from math import *\nfrom statistics import *\n" + source_of("s4-range-code"), names)
    return names


@pytest.fixture(scope="module")
def best_for():
    """The rule on what notebook 1 hands to it."""

    def choose(turns: choice.InTurn, goal: float) -> int:
        names = ranges_in(turns)
        exec(source_of("s4-choice"), names)
        return tuning.best_for(goal, names["price"], names["faster"])

    return choose


def test_the_largest_is_chosen_unless_another_is_faster_beyond_what_runs_vary(best_for):
    alike = in_turn({16: (545, 4.0), 48: (540, 5.0)})
    assert best_for(alike, 3.0) == 48
    said = wording.chosen(alike, 48, 3.0, 256)
    assert (
        said.startswith("of 1, 16, 48. TPOT at most 3 times") and "Output tokens/s: 4.95 to" in said
    )
    default = "vLLM's default (256) runs all 48 at once here"
    assert said.endswith(f"{default}, as your setting does.")
    goal = "TPOT at most 3 times that of one at a time; measured: 2."
    said = wording.chosen_for(alike, 48, 3.0)
    assert said.startswith(goal) and said.endswith("times; the most that was tried")
    assert wording.chosen_for(faster := in_turn({16: (900, 4.0), 48: (540, 5.0)}), 16, 3.0) == (
        "TPOT at most 3 times that of one at a time; measured: 2.00 to 2.00 times"
    )
    said = wording.chosen_for(alike, 16, 2.51)
    assert best_for(alike, 2.51) == 16 and said.endswith("; undecided whether 48 would do")
    assert best_for(faster, 3.0) == 16
    said = wording.chosen(faster, 16, 3.0, 256)
    assert " 48: TPOT 2." in said and "tokens/s 0.5" in said and "times those of 16." in said
    assert said.endswith(f"{default}.")


def test_the_range_worked_out_in_the_notebook_is_the_one_that_is_judged_by(capsys):
    turns = in_turn({16: (545, 4.0), 48: (540, 5.0)})
    names = ranges_in(turns)
    assert (names["low"], names["high"]) == pytest.approx(turns.faster(48).span)
    assert names["middle"] == pytest.approx(turns.faster(48).estimate)
    assert len(names["gains"]) == 3 and "48 over 1" in capsys.readouterr().out
    exec(source_of("s4-choice"), names)
    assert names["price"] == pytest.approx({n: turns.slower(n).high for n in turns.runs})
    pairs = {(a, b) for a in turns.runs for b in turns.runs}
    assert names["faster"] == {p for p in pairs if turns.faster(*p).verdict == "better"}


def test_the_sweep_says_that_the_machine_was_disturbed_and_that_it_ran_once():
    of_row = {"tpot_ms_p50": 2.0, "ttft_ms_p50": 9.0, "queue_ms_p50": 8.0}
    rows = [
        {"max_num_seqs": n, "output_tokens_per_s": speed, **of_row}
        for n, speed in ((1, 500.0), (32, 5000.0))
    ]
    fits = {"requests": 32, "input_tokens": 3072}
    calm, busy = Run(fits), Run(fits, disturbance=Disturbance(others_share=0.3, steal_share=0.0))
    assert "disturbed" not in wording.together(rows, [calm, calm], 4096, 818)[0]
    said, wait = wording.together(rows, [busy, calm], 4096, 818)
    assert wait.endswith("room for 818 such requests at once: it limits none of these values.")
    assert wording.together(rows, [busy, calm], 4096, 31)[-1].endswith(
        "at once: it is a limit here."
    )
    assert said.startswith("In one run each, 32 times") and "other programs took 30 %" in said
    assert wait.startswith("With max_num_seqs=1 the p50 of TTFT was 9 ms and that of the queue ")
    assert "time 8 ms; with 32 they were 9 and 8 ms." in wait


def test_prompts_that_do_not_fit_one_step_are_part_of_tpot_and_that_is_said_once():
    of_row = {"output_tokens_per_s": 1.0, "tpot_ms_p50": 17.2, "ttft_ms_p50": 270.0}
    rows = [{"max_num_seqs": n, "queue_ms_p50": 0.0, **of_row} for n in (1, 64)]
    sizes = {"requests": 64, "input_tokens": 6144, "itl_ms_p50": 13.3}
    firsts = [SimpleNamespace(token_times_s=[at_s]) for at_s in (*[0.27] * 42, *[0.40] * 22)]
    run, one = Run(sizes, requests=firsts), Run({"itl_ms_p50": 4.4})
    *_, said = wording.together(rows, [one, run], 4096, 818)
    assert "64 prompts of 96 tokens are more than the 4,096 of one step" in said
    assert said.endswith("The usual gap (ITL p50) became 3.0 times as long.")
    assert len(wording.together(rows, [one, run], 8192, 818)) == 2, "they fit"
    in_one_step = Run(sizes, requests=firsts[:42])
    assert len(wording.together(rows, [one, in_one_step], 4096, 818)) == 2


def test_memory_is_answered_by_what_each_phase_added():
    ends = (("start", 0.9612), ("prefill", 1.0147), ("decode", 1.0151), ("close", 0.7))
    phases = [{"label": label, "end_gib": gib} for label, gib in ends]
    gauge = {"kv_cache_prefill_percent": 9.78, "kv_cache_decode_percent": 7.82}
    grew, shows = wording.engine_life(0.5, phases, gauge)
    assert "by +0.46 GiB during start, +0.05 GiB during prefill, +0.00 GiB during decode" in grew
    assert grew.endswith(": most during start.")
    assert shows.endswith("at most 9.8 % during prefill, 7.8 % during decode.")
    phases[1]["end_gib"] = None  # it was over between two samples
    grew, _ = wording.engine_life(0.5, phases, gauge)
    assert "+0.46 GiB during start, +0.05 GiB during decode" in grew


def test_a_tighter_goal_chooses_what_the_largest_misses(best_for):
    turns = in_turn({4: (330, 2.2), 16: (760, 3.3), 32: (860, 5.2)})
    assert [best_for(turns, goal) for goal in (3.0, 2.0, 1.5, 1.05)] == [32, 16, 4, 1]
    said = wording.chosen(turns, 4, 1.5, 256)
    assert "undecided" not in said and said.count("misses it: TPOT") == 2
    rows = wording.in_turn(turns, {3.0: 32, 1.5: 4})
    assert [row["at most 1.5 times?"] for row in rows] == ["yes", "yes, kept", "no", "no"]
    assert [row["at most 3 times?"] for row in rows] == ["yes", "yes", "yes", "yes, kept"]
    assert best_for(turns, 2.61) == 16, "what is undecided is not kept"
    rows = wording.in_turn(turns, {2.61: 16})
    assert [row["at most 2.61 times?"] for row in rows][2:] == ["yes, kept", "undecided"]


def test_a_goal_inside_a_range_is_not_decided():
    turns = in_turn({4: (330, 2.2), 16: (760, 3.3), 32: (860, 5.2)})
    assert turns.meets(16, 2.0) and turns.meets(16, 1.5) is False
    assert turns.meets(32, 2.61) is None and turns.meets(1, 1.0)
    assert turns.undecided(2.61) == [32] and turns.undecided(3.0) == []
    said = wording.chosen(turns, 16, 2.61, 256)
    assert "measured: 1." in said and "undecided whether 32 would do" in said
    assert re.search(r" 32: TPOT 2.\d+ to 2.\d+ times, undecided; tokens/s 1.", said)
    one, tight = wording.by_goal(turns, {2.61: 16, 1.5: 4})
    assert "max_num_seqs=16, 7." in one and "max_num_seqs=4, 3." in tight
    undecided = r" Undecided: 32 \(TPOT 2\.\d+ to 2\.\d+ times, tokens/s 7\.\d+ to 9\.\d+ times\)\."
    assert re.search(undecided, one) and "ndecided" not in tight
    assert wording.by_goal(turns, {1.05: 1})[0].endswith("max_num_seqs=1.")


def test_the_recorded_rows_are_chosen_from_by_the_same_rule(capsys):
    turns, best_of = in_turn({16: (760, 3.3), 64: (860, 8.2)}), {3.0: 16, 1.5: 1}
    names = {"choice": choice, "rule": tuning.best_for, "best_of": best_of}
    exec(source_of("s4-there"), names)
    prices, best_there = names["price_there"], names["best_there"]
    assert [*prices] == [256, 64, 16, 1] and prices[256] == pytest.approx(2.47, abs=0.01)
    assert best_there == {3.0: 256, 1.5: 64}
    assert "recorded: NVIDIA H100" in (out := capsys.readouterr().out) and "256: 2.47" in out
    there = names["there"]
    loose, tight, loads = wording.on_both(turns, best_of, there, prices, best_there)
    assert "of one at a time keeps 16 here and, by one run each, 256 there. Begin" in loose
    assert loose.endswith("Begin there with 256; it ends that sweep, so try more.")
    assert "keeps 1 here and, by one run each, 64 there" in tight
    assert tight.endswith("and try 128: nothing was recorded between 64 and 256.")
    assert loads.startswith("With 64 at once TPOT is 4.") and "1.14 times there (256 tok" in loads
    assert "one here (96 tokens in, 96 out)" in loads
    close = in_turn({16: (760, 3.3), 32: (860, 5.2)})
    said = wording.on_both(close, {2.61: 16}, there, prices, {2.61: 256})
    assert "keeps 16 (undecided: 32) here and, by one run each, 256 there" in said[0]


def test_rounds_are_counted_with_what_disturbed_them():
    turns = in_turn({4: (330, 2.2)})
    alone = "\nThe baseline, one at a time: 100 tokens/s (98 to 102)."
    assert wording.rounds_run(turns) == f"3 rounds of 2 values, all counted.{alone}"
    turns.runs[1][0].disturbance = Disturbance(others_share=0.15, steal_share=0.0)
    said = "all counted. At worst, during one of these runs, other programs took 15 % of the cores."
    assert wording.rounds_run(turns) == f"3 rounds of 2 values, {said}{alone}"


def test_the_means_that_are_drawn_are_kept_and_their_ratio_is_the_gain():
    turns = in_turn({16: (500, 4.0), 48: (540, 5.0)})
    turns.runs[48][0].metrics |= {"output_tokens_per_s": 54.0, "tpot_ms_p50": 50.0}  # a bad moment
    kept = turns.record(48, 104_832)
    assert kept["output_tokens_per_s"] == turns.mean(48, choice.SPEED)
    assert kept["tpot_ms_p50"] == turns.mean(48, choice.TPOT)
    speeds = [run.metrics["output_tokens_per_s"] for run in turns.runs[1]]
    baseline = kept["baseline_tokens_per_s"], kept["baseline_tpot_ms"]
    assert baseline == pytest.approx((100.0, 2.0), rel=1e-3)
    ends = kept["baseline_tokens_per_s_low"], kept["baseline_tokens_per_s_high"]
    assert ends == (min(speeds), max(speeds))
    gain = turns.faster(48)
    ratio = kept["output_tokens_per_s"] / kept["baseline_tokens_per_s"]
    assert kept["improvement_x"] == gain.estimate == pytest.approx(ratio)
    assert kept["improvement_x_values"] == 3


def test_a_round_that_others_slowed_counts_in_no_number(capsys):
    turns = in_turn({16: (500, 4.0), 48: (540, 5.0)})
    calm = in_turn({16: (500, 4.0), 48: (540, 5.0)})
    for value, speed in ((1, 20.0), (16, 480.0), (48, 540.0)):
        metrics = {"output_tokens_per_s": speed, "tpot_ms_p50": 9.0, "output_tokens": 1536}
        busy = Disturbance(0.6 if value == 1 else 0.0, 0.0)
        turns.runs[value].append(Run(metrics, disturbance=busy))
    assert turns.record(48, 104_832) == calm.record(48, 104_832)
    assert turns.mean(1, choice.SPEED) == calm.mean(1, choice.SPEED)
    assert turns.faster(16) == calm.faster(16) and len(turns.runs[1]) == 4
    assert wording.rounds_run(turns).startswith("4 rounds of 3 values, 3 counted.\n")
    assert capsys.readouterr().out.startswith("Left out: in 1 of 4 rounds "), "and said once"


def test_the_time_of_an_answer_says_what_the_formula_leaves_out(capsys):
    one = {"ttft_ms_mean": 6.0, "tpot_ms_mean": 2.0, "output_tokens_per_s": 100.0}
    many = {"ttft_ms_mean": 165.0, "tpot_ms_mean": 5.0, "output_tokens_per_s": 800.0}
    turns = choice.InTurn({n: [Run(m) for _ in range(3)] for n, m in ((1, one), (32, many))})
    seen = {}
    names = {"turns": turns, "best": 32, "n_out": 48, "store": None}
    names |= {"improvement": None, "reconcile": lambda *_, **said: seen.update(said)}
    exec(source_of("s4-answer"), names)
    out = capsys.readouterr().out
    assert "1 at once: 6.0 + 47 x 2.00 = 100.0 ms" in out
    assert "32 at once: 165.0 + 47 x 5.00 = 400.0 ms" in out
    assert "formula: 32 x 94.0 / 235.0 = 12.8" in out
    assert "answer: 32 x 100.0 / 400.0 = 8.0" in out, "the gain of these runs"
    assert seen["why"].endswith("in turn, gives 12.8, and with the first token's time 8.0.")


def test_a_disturbed_run_is_repeated_once_with_fresh_prompts(monkeypatch):
    shares, seeds = [], []

    def measured(engine, seed, concurrency):
        seeds.append(seed)
        return Run({}, disturbance=Disturbance(shares.pop(0), 0.0))

    class Engine:
        tokenizer = None

    monkeypatch.setattr(choice.workloads, "uniform", lambda *_, seed: seed)
    monkeypatch.setattr(choice, "run_workload", measured)
    shares[:] = [0.5, 0.0]
    run = choice.uniform_run(Engine, 4, 8, 8, seed=7, concurrency=1)
    assert not run.disturbance.reasons and len(set(seeds)) == 2
    shares[:] = [0.5, 0.5, 0.5]
    run = choice.uniform_run(Engine, 4, 8, 8, seed=7, concurrency=1)
    assert run.disturbance.reasons and len(shares) == 1, "once, then it is labelled"


def test_the_reasons_say_what_was_not_varied():
    rows = [{"max_num_seqs": 16, "kv_cache_tokens": 104_832, "output_tokens_per_s": 540}]
    why = wording.reasons("the fastest", rows, "kv_cache_memory_bytes")
    assert why["kv_cache_memory_bytes"].startswith("default, not varied: 104,832 tokens")


def test_the_record_of_a_choice_is_one_that_a_run_can_have_given():
    """Runs that differ: as requests of equal length do, each has one TPOT for all percentiles."""
    turns = in_turn({16: (900.0, 4.0)})
    for run, speed, tpot_ms in zip(
        turns.runs[16], (910.0, 900.0, 700.0), (3.9, 4.0, 4.6), strict=True
    ):
        run.metrics |= {f"tpot_ms_{p}": tpot_ms for p in ("p50", "p90", "p99")}
        run.metrics |= {"output_tokens_per_s": speed, "duration_s": 1536 / speed}
    metrics = turns.record(16, 104_832)
    about = {"id": "0123456789ab", "notebook": "01_review", "experiment": "optimised"}
    assert flags.impossible([about | {"variant": "best", "metrics": metrics}], []) == []
    assert metrics["output_tokens_per_s"] == pytest.approx(turns.mean(16, choice.SPEED))
