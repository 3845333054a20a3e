"""The figures and claim tables of notebook 3: drawn from small data, without a complaint."""

import io
import warnings

import pytest

from helpers.display import figures as style
from helpers.lessons.papers import cost, flash_attention, paged_attention, speculative
from helpers.lessons.reading_notes import claims, plots
from helpers.lessons.reading_notes.static_batching import Reserving, Waves
from helpers.verdicts.gain import gain_of_pairs


@pytest.fixture
def pictures(monkeypatch):
    """Every figure that is shown, as a Picture; a missing label or title is an error."""
    shown = []

    def show(fig, caption, table=None, name="figure"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shown.append(style.Picture(fig, caption, table, name))

    monkeypatch.setattr(style, "show", show)
    return shown


def one(pictures) -> style.Picture:
    (picture,) = pictures
    assert picture.png[:4] == b"\x89PNG" and len(picture.png) > 5000
    assert picture.table and picture.caption == "reading"
    return picture


def test_allocators(pictures):
    lengths = paged_attention.draw_lengths(60)
    ours = {
        p: paged_attention.simulate_allocator(lengths, p).as_percent()
        for p in paged_attention.POLICIES
    }
    plots.allocators(ours, paged_attention.FIGURE_2, "reading")
    assert len(one(pictures).table) == 8


def test_block_sizes_and_sharing(pictures):
    plots.block_sizes(
        [
            {"block_size": b, "tokens": 99 - b / 5, "waste_per_request": (b - 1) / 2}
            for b in (1, 16, 256)
        ],
        "reading",
    )
    one(pictures)
    pictures.clear()
    rows = [
        {"kind": k, "width": w, "saved_percent": 10.0, "printed": 9.0}
        for k in ("parallel", "beam")
        for w in (2, 4)
    ]
    plots.sharing(rows, "reading")
    one(pictures)


def test_blocks_in_use(pictures):
    plots.blocks_in_use(
        [{"step": i, "blocks": 3, "blocks_predicted": 3, "tokens": 40 + i} for i in range(20)],
        16,
        "reading",
    )
    one(pictures)


def test_the_bar_of_figure_2(pictures):
    plots.reserved_bar(paged_attention.FIGURE_2["max"], "reading")
    assert sum(row["percent"] for row in one(pictures).table) == pytest.approx(100, abs=0.2)


def test_traffic(pictures):
    rows = [
        {
            "tokens": n,
            "standard": flash_attention.standard_traffic(n, 64),
            "flash": flash_attention.flash_traffic(n, 64, 4096),
        }
        for n in (512, 1024)
    ]
    plots.traffic(
        rows, [{"sram": m, "standard": 10, "flash": 1e6 / m} for m in (512, 1024)], "reading"
    )
    one(pictures)


@pytest.mark.parametrize("gpu", [False, True])
def test_machine_figures_with_and_without_recorded_lines(pictures, gpu):
    from helpers.lessons.reading_notes.small_operations import recorded_on_h100

    h100 = recorded_on_h100()
    here = [
        {"tokens": n, "backend": b, "ms": n / 100, "extra_mib": None}
        for n in (256, 512)
        for b in ("math", "flash")
    ]
    plots.attention_times(
        h100["attention"] if gpu else here,
        "reading",
        "this machine",
        [] if gpu else h100["attention"],
        "H100",
    )
    table = one(pictures).table
    assert {r["machine"] for r in table} == ({"this machine"} if gpu else {"this machine", "H100"})
    pictures.clear()
    rows = h100["products"] if gpu else h100["products"][:3]
    plots.products(rows, 254.0, "reading", [] if gpu else h100["products"], "H100")
    assert len(one(pictures).table) == (8 if gpu else 11)


def test_no_label_is_cut_off_and_no_kernel_vanishes(monkeypatch):
    from helpers.lessons.reading_notes.small_operations import recorded_on_h100

    figures, h100 = [], recorded_on_h100()
    monkeypatch.setattr(style, "show", lambda fig, *_, **__: figures.append(fig))
    plots.attention_times(h100["attention"], "reading", "this GPU")
    plots.products(h100["products"], 254.0, "reading")
    for fig in figures:
        fig.savefig(io.BytesIO())
        for ax in fig.axes:
            box = ax.xaxis.label.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= fig.bbox.width, ax.get_xlabel()
    memory = [text.get_text() for text in figures[0].axes[1].get_legend().get_texts()]
    assert "efficient: 0 MiB, below a log axis" in memory, "a log axis has no place for 0"


def test_budgets(pictures):
    rows = [{"token_budget": b, "itl_ms_p99": 10.0, "ttft_ms_p50": 20.0} for b in (256, 512)]
    plots.budgets(rows, "reading")
    one(pictures)


@pytest.mark.parametrize("stars", [0, 2])
def test_speculation(pictures, stars):
    curves = {"free": [(a / 10, speculative.speedup(a / 10, 4)) for a in range(11)]}
    measured = [
        {"label": "ngram", "alpha": 0.97, "speedup": 1.8},
        {"label": "draft", "alpha": 0.8, "speedup": 1.4},
    ][:stars]
    plots.speculation(curves, measured, 4, "reading")
    table = one(pictures).table
    assert len([r for r in table if r["from"] in ("ngram", "draft")]) == stars


def test_cost_bars_returns_its_picture():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = plots.cost_bars(
            cost.what_changes_it(cost.CostInputs(2, 1000), {"busier": {"utilisation": 1.0}}),
            "reading",
        )
    assert [r["change"] for r in picture.table] == ["busier", "as it is"]


def test_claims_quote_the_constants_and_name_what_is_not_rebuilt():
    lengths = paged_attention.draw_lengths(60)
    usage = {p: paged_attention.simulate_allocator(lengths, p) for p in paged_attention.POLICIES}
    slots = {n: 1 for n in paged_attention.TABLE_1}
    waves = Waves(4.0, 2.0, 400, 200, {1: 2.0}, 100, {}, gain_of_pairs([(4.0, 2.0)] * 3, "lower"))
    both = Reserving(gain_of_pairs([(4.0, 2.0)] * 3, "lower"), {"reserved": 4, "paged": 12}, {})
    tables = [
        claims.paged(slots, usage),
        claims.sharing([{"kind": "beam", "width": 2, "printed": 37.56, "saved_percent": 39.0}]),
        claims.orca({"static": 380, "iteration": 200}, 1.8, waves),
        claims.flash(3e-7, 1.98, -0.99, 2.0),
        claims.deepspeed(0.5, 1.7, 14_000, "recorded"),
        claims.leviathan(),
        claims.headline(both),
    ]
    for table in tables:
        assert len({c.key for c in table}) == len(table)
        for claim in table:
            assert claim.what and claim.why, f"{claim.key} explains nothing"
            assert claim.paper is not None or claim.ours is not None
    by_key = {c.key: c for table in tables for c in table}
    assert by_key["hbm_arxiv"].paper == 40.3 and by_key["hbm_later"].paper == 35.3, (
        "each with its version"
    )
    assert "arXiv version" in by_key["hbm_arxiv"].what
    assert "no dropout" in by_key["hbm_later"].what, "what its caption says of the other version"
    assert (by_key["latency_arxiv"].paper, by_key["latency_sc22"].paper) == (7.3, 6.4)
    assert by_key["headline"].ours == 2 and by_key["batch_x"].ours == 3
    assert by_key["table_1"].ours == 0, "the formula gives the paper's speeds to the last digit"
    # What the authors measured is more than theorem 3.8 allows: the line says so.
    cnndm = by_key["t5_cnndm"]
    assert cnndm.paper == 3.1 and cnndm.ours == pytest.approx(2.4, abs=0.01)
    assert "less than was measured" in cnndm.why and "less than" not in by_key["t5"].why
    assert by_key["steps"].ours == 2 and by_key["measured"].ours == 2
    assert by_key["throughput"].ours is None, "what was not rebuilt has no number of ours"
