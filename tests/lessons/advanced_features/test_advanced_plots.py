"""Figures of notebook 2: labels that can be read, points where they were measured."""

import math

import pytest
from matplotlib.colors import to_hex

from helpers.display import figures as style
from helpers.lessons.advanced_features import plots, services
from helpers.verdicts.gain import Gain

GAIN = Gain(1.5, 1.4, 1.6, 3)


@pytest.fixture
def shown(monkeypatch):
    figures = []

    def show(fig, caption, table=None, name="figure"):
        fig.draw_without_rendering()
        fig.caption = caption
        figures.append(fig)

    monkeypatch.setattr(style, "show", show)
    return figures


def test_points_stand_at_the_chance_that_was_met(shown):
    rows = [{"a": a, "measured_x": x, "gain": GAIN} for a, x in ((0.29, 0.7), (0.88, 1.5))]
    plots.speedup_by_acceptance(rows, 4, lambda a: (a, 2 * a, 3 * a), "Reading.")
    [ax] = shown[0].axes
    assert len(ax.get_legend().get_texts()) == 3, "the points, the formula and its range"
    assert list(ax.get_lines()[1].get_xdata()) == [0.29, 0.88] and len(ax.containers) == 1


def test_drafters_of_another_machine_have_their_ranges(shown):
    there = {
        "requests": 4,
        "alpha": 0.8,
        "speedup_x": 2.5,
        "speedup_x_low": 2.0,
        "speedup_x_high": 3.0,
    }
    row = {"requests": 4, "measured_x": 1.5, "gain": GAIN}
    plots.speedup_by_batch([row], "Reading.", {"n-gram": [there | {"speedup_x_values": 3}]})
    here, elsewhere = shown[0].axes
    assert [text.get_text() for text in elsewhere.get_legend().get_texts()] == ["n-gram"]
    assert len(here.containers) == len(elsewhere.containers) == 1, "error bars of both"
    assert {ax.get_lines()[0].get_linestyle() for ax in (here, elsewhere)} == {"None"}


def test_every_budget_is_drawn_and_every_range_of_a_service_is_whole(shown):
    row = {"itl_ms_p99": 50.0, "ttft_long_ms_p50": 200.0, "max_num_batched_tokens": 4352}
    there = [row | {"max_num_batched_tokens": 256}]
    plots.chunk_tradeoff([row], {"the rule": 4352}, 100, there, "Reading.")
    here, elsewhere, *_ = shown[0].axes
    names = [text.get_text() for text in here.get_legend().get_texts()]
    assert names == ["the rule: 4,352 tokens", "promise: 100 ms"] and elsewhere.get_legend() is None
    assert [line.get_xdata()[0] for line in here.get_lines()[:2]] == [4352, 4352]
    assert "log scale" in shown[0].axes[2].get_xlabel()
    plots.chunk_tradeoff([row], {"the rule": 4352}, 100, [], "Reading.")
    assert len(shown.pop().axes) == 2, "nothing was recorded"
    wide = Gain(4, 0.3, 50, 3)
    plots.services([of_service(small_chunks=GAIN), of_service(small_chunks=wide)], "Reading.")
    low, high = shown[1].axes[0].get_xlim()
    assert low < 0.3 and high > 50


def of_service(chosen=None, **gains):
    service = services.Service("a", "a", "", None, "", "", "lower")
    found = {name.replace("_", " "): gain for name, gain in gains.items()}
    return services.Verdict(service, found, chosen, 0.016)


def test_a_service_stands_above_its_features_with_their_ranges_beside_them(shown):
    for chosen, names in (
        ("small chunks", ["a", "small chunks (your guess)"]),
        ("prefix caching", ["a (your guess: cannot act)", "small chunks"]),
        ("nothing", ["a", "small chunks"]),
        ("", ["a", "small chunks"]),
    ):
        plots.services([of_service(chosen, small_chunks=GAIN)], "Reading.")
        [ax] = shown[-1].axes
        assert [label.get_text() for label in ax.get_yticklabels()] == names
        assert [text.get_text() for text in ax.texts] == ["1.40 to 1.60"]


def test_equal_likelihoods_get_no_axis_of_their_own(shown):
    rows = [
        {
            "strategy": name,
            "mean_logprob": -0.0009,
            "distinct_2grams": 0.97,
            "output_tokens_per_s": 9,
        }
        for name in ("a", "b")
    ]
    plots.strategies(rows, "Reading.")
    assert shown[0].axes[0].get_xlim()[0] <= -0.1


def test_stories_are_drawn_by_their_grammar(shown):
    row = {"stories": 6, "faultless": 5, "mean_chance": 0.002, "output_tokens_per_s": 9.0}
    rows = [{"strategy": name, "distinct_stories": 4, **row} for name in ("a", "b")]
    plots.strategies(rows, "Reading.")
    labels = [ax.get_xlabel() for ax in shown[0].axes]
    assert labels[:2] == ["stories without a fault", "mean chance of a story"]
    assert labels[2:] == ["different stories", "tokens/s, one run"]
    assert not any(ax.patches for ax in shown[0].axes), "points: the caption ranks nothing"


def test_only_a_verdict_has_a_colour(shown):
    found = [
        of_service(a=Gain(1.5, 1.4, 1.6, 3), b=Gain(1.2, 0.9, 1.6, 3)),
        of_service(a=Gain(0.5, 0.4, 0.6, 3), b=Gain(9.0, 0.0, math.inf, 1)),
    ]
    plots.services(found, "Reading.")
    [ax] = shown[0].axes
    colors = [to_hex(bar.lines[0].get_color()) for bar in ax.containers]
    named = [color.lower() for color in (style.GREEN, style.GREY, style.RED, style.GREY)]
    assert colors == named, "neither an open range nor a single run is a verdict"


@pytest.mark.parametrize("high, heads", [(9.2, 1), (1.1, 0)])
def test_a_range_that_is_cut_ends_in_an_arrow_head_and_the_caption_says_so(shown, high, heads):
    row = {"k": 4, "measured_x": 1.0, "gain": Gain(1.0, 0.2, high, 3), "requests": 1}
    plots.speedup_by_batch([row], "Reading.")
    arrows = [mark for mark in shown[0].axes[0].collections if mark.get_zorder() == 5]
    assert len(arrows) == heads and ("An arrow head" in shown[0].caption) == bool(heads)
