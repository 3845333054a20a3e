"""The memory timeline: its table, and that its labels can be read."""

import itertools
import warnings

import pytest

from helpers.display import figures, memory_plot
from helpers.gpu_memory import DEVICE, MemorySampler

GIB = 2**30


def sampler(
    device=True,
    phases=(
        "load vLLM",
        "read the configuration",
        "load the weights",
        "prefill",
        "decode",
        "close",
    ),
    ends=(0.1, 0.2, 4, 4.5, 8, 10),
):
    """A finished run of ten seconds, without waiting for it."""
    made = MemorySampler(hz=10, devices=[])
    made.start()
    made.stop(ended_s=10.0)
    made.samples.clear()
    made.devices = [object()] if device else []
    made.source = DEVICE if device else made.source
    start = 0.0
    for label, end in zip(phases, ends, strict=True):
        made.marks.append({"t_s": start, "label": label})
        start = end
    for index in range(101):
        t = index / 10
        used = 1.0 if t < 2 else 9.0 if t < 8 else 1.2
        process = used - 0.5
        sample = {"t_s": t, "used_gib": used if device else process, "process_gib": process}
        made.samples.append(sample)
    return made


KV = [(4.5, [{"t_s": i / 10, "kv_cache_usage": min(0.4, i / 50)} for i in range(30)])]


def test_table_and_labels():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing label or title is a warning of figures.Picture
        fig, rows = memory_plot.draw(sampler(), KV)
        *_, values = figures.Picture(fig, "caption", rows, "m").outputs()
    assert [row["phase"] for row in rows][:2] == ["load vLLM", "read the configuration"]
    assert rows[-1]["at its end (GiB)"] == 1.2 and "load the weights" in values.html


def test_without_a_gpu_it_says_host_memory():
    fig, _ = memory_plot.draw(sampler(device=False), KV)
    assert fig.axes[0].get_ylabel() == "host memory (GiB)"


def test_phase_names_do_not_cover_each_other():
    fig, _ = memory_plot.draw(sampler(), KV)
    fig.draw_without_rendering()
    names = [text for text in fig.axes[0].texts if text.get_rotation() == 30]
    assert len(names) == 6
    # Two slanted lines touch when they are closer than a letter's height across the slant.
    for left, right in itertools.pairwise(names):
        a, b = (t.get_transform().transform(t.get_position())[0] for t in (left, right))
        height = left.get_fontsize() * fig.dpi / 72
        assert (b - a) * 0.5 >= height * 0.85, (
            f"{left.get_text()!r} and {right.get_text()!r} overlap"
        )


def test_a_steps_use_of_the_kv_cache_is_drawn_over_the_step():
    steps = [{"t_s": 2.0, "kv_cache_usage": 0.4}, {"t_s": 3.0, "kv_cache_usage": 0.8}]
    fig, _ = memory_plot.draw(sampler(), [(4.5, steps)])
    [line] = [line for line in fig.axes[-1].lines if len(line.get_xdata()) == 4]
    assert line.get_drawstyle() == "steps-pre", "a point's value holds from the point before it"
    assert list(line.get_xdata()) == [4.5, 6.5, 7.5, 7.5]
    assert list(line.get_ydata()) == [0, 40, 80, 0]


def test_nothing_to_draw_is_an_error_with_its_reason(monkeypatch):
    empty = MemorySampler()
    why = "Sampling stopped after 0.1 s: driver gone."
    monkeypatch.setattr(MemorySampler, "stopped_early", why)
    with pytest.raises(ValueError, match=f"no sample was taken. {why}"):
        memory_plot.draw(empty, KV)
