"""helpers/lessons/review/plots.py: what is written in the figures can be read."""

from itertools import combinations
from types import SimpleNamespace

import pytest

from helpers.display import figures
from helpers.lessons.review import choice, plots
from helpers.lessons.review.choice import InTurn
from helpers.verdicts.machine import Disturbance

# (TPOT ms, tokens/s) of one at a time, 1, 4, 16, 48: quiet and busy machines, as they came out.
MAPS = [
    [(2.34, 413), (1.92, 473), (2.07, 1735), (4.77, 3007), (11.7, 2678)],
    [(1.91, 490), (1.74, 520), (1.92, 1835), (3.15, 3699), (7.67, 4537)],
    [(1.62, 573), (1.70, 520), (2.2, 1500), (2.3, 1600), (7.0, 4000)],
]


@pytest.mark.parametrize("points", MAPS)
def test_labels_of_the_map_cover_no_point_and_no_other_label(monkeypatch, points):
    drawn = []
    monkeypatch.setattr(figures, "show", lambda fig, *_: drawn.append(fig))
    rows = [
        {"max_num_seqs": n, "tpot_ms_p50": ms, "output_tokens_per_s": speed}
        for n, (ms, speed) in zip((1, 2, 4, 16, 48), points, strict=True)
    ]
    idle = Disturbance(0.0, 0.0)
    runs = {
        row["max_num_seqs"]: 3 * [SimpleNamespace(metrics=row, disturbance=idle)] for row in rows
    }
    turns = InTurn(runs)
    typed = {"metrics": {"output_tokens_per_s": 5600.0}}  # above all that was measured here
    kept, there = {3.0: 16, 1.5: 4}, {3.0: 256, 1.5: 64}
    plots.throughput_latency(turns, kept, choice.recorded_rows(), there, "caption", typed)
    fig = drawn[0]
    fig.canvas.draw()
    here, there = fig.axes
    said, recorded = ({label.get_text() for label in ax.texts} for ax in (here, there))
    assert {"16", "4", "goal 3 x: 16", "goal 1.5 x: 4", "your Week 2 number (typed)"} <= said
    assert {"1", "16", "64", "256", "goal 3 x: 256", "goal 1.5 x: 64"} == recorded
    clear_of_each_other(here, points)
    clear_of_each_other(there, there.collections[0].get_offsets())


def clear_of_each_other(ax, points):
    labels = ax.texts
    boxes = [label.get_window_extent() for label in labels]
    for (a, one), (b, other) in combinations(zip(labels, boxes, strict=True), 2):
        assert not one.overlaps(other), f"{a.get_text()} and {b.get_text()}"
    for label, box in zip(labels, boxes, strict=True):
        near = box.padded(5)  # pixels: half of a point's mark
        covered = [point for point in points if near.contains(*ax.transData.transform(point))]
        assert not covered, f"{label.get_text()} covers {covered}"


def test_an_undecided_value_looks_like_no_other_and_a_disturbed_run_has_a_star(monkeypatch):
    drawn, idle, busy = [], Disturbance(0.0, 0.0), Disturbance(0.2, 0.0)
    monkeypatch.setattr(figures, "show", lambda fig, caption, *_: drawn.append((fig, caption)))
    runs = {1: [], 4: []}
    for wobble in (0.97, 1.0, 1.04):
        for n, (ms, speed) in {1: (2.0, 500.0), 4: (3.0 * wobble, 1500.0)}.items():
            row = {"max_num_seqs": n, "tpot_ms_p50": ms, "output_tokens_per_s": speed}
            runs[n].append(SimpleNamespace(metrics=row, disturbance=idle))
    kept, there = {1.5: 1}, {1.5: 64}
    plots.throughput_latency(InTurn(runs), kept, choice.recorded_rows(), there, "caption")
    here = drawn[0][0].axes[0]
    assert "goal 1.5 x: 1" in {label.get_text() for label in here.texts}
    [diamond] = [one.get_offsets() for one in here.collections if one.get_zorder() == 4]
    assert tuple(diamond[0]) == pytest.approx((3.0, 1500.0), rel=0.01)
    rows = [{**runs[n][0].metrics, "ttft_ms_p50": 9.0} for n in (1, 4)]
    plots.sweep(rows, [runs[1][0], SimpleNamespace(disturbance=busy)], "One run each.")
    fig, caption = drawn[1]
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["1", "4*"]
    assert caption.endswith("A star: other programs disturbed the run.")
