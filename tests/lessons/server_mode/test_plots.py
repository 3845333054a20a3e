"""The figures of notebook 5: what they say under the data, and what they leave to a sentence."""

import pytest

from helpers.display import figures
from helpers.lessons.server_mode import plots
from helpers.server.load import Stream


@pytest.fixture
def shown(monkeypatch):
    """(figure, caption) of each figure that is shown."""
    found = []

    def show(fig, caption, *_, **__):
        found.append((fig, caption))

    monkeypatch.setattr(figures, "show", show)
    return found


def level(clients, tokens, ttft=20.0, disturbed=""):
    return {
        "disturbed": disturbed,
        "clients": clients,
        "output_tokens_per_s": tokens,
        "ttft_ms_p50": ttft,
        "e2e_ms_mean": 500.0,
        "tpot_ms_p50": 6.0,
    }


def test_closed_loop_says_what_the_most_clients_got_and_waited(shown):
    rows = [level(1, 152.0), level(128, 6661.0, 696.0), level(256, 5374.0, 1060.0)]
    plots.closed_loop(rows)
    ((_, caption),) = shown
    assert caption.startswith("One run at each number of clients. With 256, 35.4 times the tokens")
    assert "of 1, and 53.0 times its wait for the first token" in caption


def test_what_other_programs_disturbed_has_a_ring_and_a_name(shown):
    rows = [level(8, 1800.0), level(16, 1000.0, disturbed="busy"), level(64, 4400.0)]
    plots.closed_loop(rows)
    ((fig, caption),) = shown
    line, ring = fig.axes[0].lines[:2]
    assert list(line.get_xdata()) == [8, 16, 64] and list(ring.get_xdata()) == [16]
    assert ring.get_markerfacecolor() == "none", "the series keeps its colour"
    assert caption.endswith("Ringed: other programs disturbed the run.")
    for ax in fig.axes:
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names.count("disturbed") == 1
    plots.closed_loop([row | {"disturbed": ""} for row in rows])
    assert "Ringed" not in shown[1][1]


def test_open_loop_draws_what_the_benchmark_counted(shown):
    latencies = {"ttft_ms_p90": 60.0, "tpot_ms_p90": 22.0, "disturbed": ""}
    rows = [
        {
            "arrived_per_s": 0.99 * rate,
            "requests_per_s": 0.8 * rate,
            "goodput_per_s": 0.8 * rate * share,
            "verdict": verdict,
            **latencies,
        }
        for rate, share, verdict in ((10.0, 0.96, "held"), (20.0, 0.86, "cannot tell"))
    ]
    plots.open_loop(rows[::-1], {"ttft": 96, "tpot": 20}, (rows[0], None), 30)
    plots.open_loop(rows, {"ttft": 96, "tpot": 20}, (None, rows[1]), 30)
    (fig, caption), _ = shown
    lines = {line.get_label(): list(line.get_ydata()) for line in fig.axes[1].lines}
    assert lines["arrivals"] == [0, 9.9, 19.8], "as they came, not as they were asked for"
    assert lines["answers"] == [8.0, 16.0] and lines["capacity (closed loop)"] == [30, 30]
    assert lines["goodput: answers in time"] == pytest.approx([7.68, 13.76])
    drawn = {line.get_label(): line.get_ydata() for line in fig.axes[0].lines}
    assert drawn["TTFT goal"][0] == 96 and drawn["TPOT goal"][0] == 20, "what is missed can be seen"
    assert "The goal is TTFT 96 ms and TPOT 20 ms." in caption
    labels = [[line.get_label() for line in one.axes[1].lines] for one, _ in shown]
    assert ["highest rate that held" in one for one in labels] == [True, False]
    marks = [(text.get_text(), text.xy[0]) for text in fig.axes[0].texts]
    assert marks == [("✓", 9.9), ("?", 19.8)], "each run has its verdict"
    spans = [[patch.get_label() for patch in one.axes[0].patches] for one, _ in shown]
    assert spans == [[], ["not decided"]]


def test_a_start_without_phases_is_a_sentence(shown, capsys):
    plots.startup({}, 7.0)
    assert not shown and "names no phases" in capsys.readouterr().out


def test_another_machine_is_named_above_both_panels(shown):
    rows = [level(1, 152.0), level(64, 4400.0)]
    there = [
        level(1, 160.0) | {"variant": "1_clients"},
        level(64, 5000.0) | {"variant": "64_clients"},
    ]
    plots.closed_loop(rows, (there, "recorded: NVIDIA H100, vLLM 0.32.0, 2026-11-26"))
    ((fig, caption),) = shown
    assert {ax.get_title(loc="left") for ax in fig.axes} == {"filled: here; hollow: NVIDIA H100"}
    assert "Hollow points: NVIDIA H100, vLLM 0.32.0, 2026-11-26." in caption
    assert all(len(ax.get_legend().get_texts()) <= 4 for ax in fig.axes)


def test_the_ttft_of_a_stream_stands_clear_of_its_line(shown):
    times = [0.019 + 0.006 * i for i in range(60)]
    plots.token_times(Stream(times_s=times, chunks=["x"] * 60))
    ((fig, caption),) = shown
    fig.canvas.draw()
    ax = fig.axes[0]
    box = ax.texts[0].get_window_extent()
    points = ax.transData.transform([(1e3 * t, i + 1) for i, t in enumerate(times)])
    assert ax.texts[0].get_text() == "TTFT 19 ms"
    assert not [p for p in points if box.x0 <= p[0] <= box.x1 and p[1] >= box.y0]
    assert "half of the others came within 6.0 ms of the one before" in caption


def test_a_stream_of_one_chunk_has_a_caption(shown):
    plots.token_times(Stream(times_s=[0.019], chunks=["x"]))
    assert shown[0][1] == "The first chunk came after 19 ms (TTFT)."
