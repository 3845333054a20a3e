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


def test_points_stand_at_the_chance_that_was_met_beside_the_formula(shown):
    rows = [{"a": a, "measured_x": x, "gain": GAIN} for a, x in ((0.29, 0.7), (0.88, 1.5))]
    plots.speedup_by_acceptance(rows, [(0.0, 0.3, 0.4), (1.0, 2.0, 2.5)], 4, "Reading.")
    [ax] = shown[0].axes
    measured = {line.get_label(): line for line in ax.get_lines()}["measured"]
    assert list(measured.get_xdata()) == [0.29, 0.88]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["formula, c of section 3", "measured"]


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


def test_every_budget_is_named_and_the_services_share_their_scale(shown):
    row = {"itl_ms_p99": 50.0, "ttft_long_ms_p50": 200.0, "total_tokens_per_s": 9000.0}
    here, there = ({**row, "max_num_batched_tokens": budget} for budget in (4352, 16_384))
    plots.chunk_tradeoff([here], "Reading.", ([there], "recorded: there"))
    names = [[text.get_text() for text in ax.get_xticklabels()] for ax in shown[0].axes]
    assert names == [["4,352"]] * 3 + [["16,384"]] * 3, "each machine has panels of its own"
    service = services.Service("a", "a", "", None, "", "", "lower")
    small = services.Verdict(service, dict.fromkeys(("prefix caching",), GAIN))
    large = services.Verdict(service, dict.fromkeys(("prefix caching",), Gain(4, 0.3, 50, 3)))
    plots.services([small, large], "Reading.")
    left, right = shown[1].axes
    low, high = left.get_xlim()
    assert right.get_xlim() == (low, high) and low < 0.3 and high > 50, "every range is whole"


def test_a_verdict_on_drafts_stands_beside_the_share_that_was_accepted(shown):
    service = services.Service("a", "a", "", None, "", "", "lower")
    gains = dict.fromkeys(("small chunks", "speculative decoding"), GAIN)
    plots.services([services.Verdict(service, gains, "small chunks", 0.016)], "Reading.")
    chunks, drafts = (text.get_text() for text in shown[0].axes[0].texts)
    assert chunks.endswith("(your guess)") and "accepted" not in chunks
    assert drafts.endswith(", 2 % accepted")


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


def test_only_a_verdict_has_a_colour(shown):
    service = services.Service(
        "a", "a", "", None, "", "", "lower", cannot_act={"speculative decoding": "why"}
    )
    ranges = {"prefix caching": (1.4, 1.6), "small chunks": (0.9, 1.6)}
    gains = {name: Gain(sum(span) / 2, *span, 3) for name, span in ranges.items()}
    gains["speculative decoding"] = Gain(1.2, 1.1, 1.3, 3)
    lost = services.Verdict(service, dict.fromkeys(gains, Gain(0.5, 0.4, 0.6, 3)), "small chunks")
    few = services.Verdict(service, dict.fromkeys(gains, Gain(9.0, 0.0, math.inf, 1)))
    plots.services([services.Verdict(service, gains), lost, few], "Reading.")
    axes = shown[0].axes[:3]
    colors = [[to_hex(bar.lines[0].get_color()) for bar in ax.containers] for ax in axes]
    grey = style.GREY.lower()
    assert colors[0] == [style.GREEN.lower(), grey, grey], "an open range, and no mechanism"
    assert colors[1] == [style.RED.lower(), style.RED.lower(), grey]
    assert colors[2] == [grey] * 3, "a single run is no verdict"


@pytest.mark.parametrize("high, heads", [(9.2, 1), (1.1, 0)])
def test_a_range_that_is_cut_ends_in_an_arrow_head_and_the_caption_says_so(shown, high, heads):
    row = {"k": 4, "measured_x": 1.0, "gain": Gain(1.0, 0.2, high, 3), "requests": 1}
    plots.speedup_by_batch([row], "Reading.")
    arrows = [mark for mark in shown[0].axes[0].collections if mark.get_zorder() == 5]
    assert len(arrows) == heads and ("An arrow head" in shown[0].caption) == bool(heads)
