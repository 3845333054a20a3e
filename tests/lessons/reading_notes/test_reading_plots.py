"""The figures and claim tables of notebook 3: drawn from small data, without a complaint."""

import io
import warnings

import pytest

from helpers.display import figures as style
from helpers.engine.steps import RecordedRequest, Step, Steps, Work
from helpers.lessons.papers import flash_attention, paged_attention
from helpers.lessons.reading_notes import claims, plots
from helpers.verdicts.gain import Gain
from tests.notebook_tools import defined_in


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
        p: paged_attention.simulate_contiguous(lengths, p).as_percent()
        for p in paged_attention.CONTIGUOUS
    }
    ours["paged"] = paged_attention.FIGURE_2["paged"]
    plots.allocators(ours, paged_attention.FIGURE_2, "reading")
    assert len(one(pictures).table) == 8


def test_blocks_in_use(pictures):
    plots.blocks_in_use(
        [{"step": i, "gauge": 3, "predicted": 3, "tokens": 40 + i} for i in range(20)],
        16,
        "reading",
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
        "4 heads in float32",
        [] if gpu else h100["attention"],
    )
    table = one(pictures).table
    assert {r["machine"] for r in table} == ({"this machine"} if gpu else {"this machine", "H100"})
    pictures.clear()
    rows = h100["products"] if gpu else h100["products"][:3]
    plots.products(rows, 9.0, "reading", [] if gpu else h100["products"], 254.0)
    assert len(one(pictures).table) == (8 if gpu else 11)


def test_no_label_is_cut_off_and_no_kernel_vanishes(monkeypatch):
    from helpers.lessons.reading_notes.small_operations import recorded_on_h100

    figures, h100 = [], recorded_on_h100()
    monkeypatch.setattr(style, "show", lambda fig, *_, **__: figures.append(fig))
    plots.attention_times(h100["attention"], "reading", "this GPU", "16 heads in bfloat16")
    plots.products(h100["products"], 254.0, "reading")
    for fig in figures:
        fig.savefig(io.BytesIO())
        for ax in fig.axes:
            box = ax.xaxis.label.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= fig.bbox.width, ax.get_xlabel()
    memory = [text.get_text() for text in figures[0].axes[1].get_legend().get_texts()]
    assert "efficient: 0 MiB, below a log axis" in memory, "a log axis has no place for 0"


@pytest.mark.parametrize("runs", [0, 3])
def test_speculation_has_one_symbol_a_drafter(monkeypatch, runs):
    figures, tables = [], []
    monkeypatch.setattr(
        style, "show", lambda fig, caption, table, name: (figures.append(fig), tables.append(table))
    )
    measured = [
        {"label": "ngram, repeats", "alpha": 0.97, "speedup": 1.8},
        {"label": "synthetic, a=0.2", "alpha": 0.2, "speedup": 0.4},
        {"label": "synthetic, a=0.8", "alpha": 0.8, "speedup": 1.4},
    ][:runs]
    for run in measured:
        run["gain"] = Gain(run["speedup"], 0.9 * run["speedup"], 1.1 * run["speedup"], 3)
    there = {"n-gram": [{"alpha": 0.2, "speedup": 1.0}, {"alpha": 0.8, "speedup": 2.6}]}
    own = ((0.1, 0.2, 0.3), "the rates set by hand") if runs else None
    plots.speculation(measured, own, 4, "reading", {} if runs else there)
    assert len([row for row in tables[0] if "range" in row]) == runs
    named = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert ("n-gram, recorded: H100" in named) == (not runs)
    assert ("k = 4, c = 0.20 (0.10 to 0.30), of the rates set by hand" in named) == bool(runs)
    assert len(named) == len(set(named)) <= 5


def test_no_range_is_cut_by_the_axis(monkeypatch):
    figures = []
    monkeypatch.setattr(style, "show", lambda fig, *_, **__: figures.append(fig))
    run = {"label": "ngram, repeats", "alpha": 0.97, "speedup": 3.8}
    plots.speculation([run | {"gain": Gain(3.8, 2.4, 6.0, 3)}], None, 4, "reading", {})
    assert figures[0].axes[0].get_ylim()[1] > 6.0


def test_every_step_stands_in_the_row_of_its_requests(monkeypatch):
    figures, tables = [], []
    monkeypatch.setattr(
        style, "show", lambda fig, caption, table, name: (figures.append(fig), tables.append(table))
    )

    def step(i, blocks, **work):
        work = {int(row[1:]): Work(8, reads, 0, 0, 0, 1) for row, reads in work.items()}
        return Step(i, i + 0.9, 64, blocks, 20, work, ())

    steps = [step(0, 1, r0=True), step(1, 1, r0=False), step(2, 2, r1=True), step(3, 2, r1=False)]
    run = Steps([RecordedRequest(0.0, 8), RecordedRequest(0.95, 8)], steps)
    plots.places("Two", "See.", {"a": run, "b": run}, reserved={"a": 7})
    assert tables[0][1] == {
        "run": "a", "request": 1, "first step": 3, "last step": 4
    }  # fmt: skip
    waits = figures[0].axes[0].collections[3].get_paths()[0].get_extents()
    assert (waits.x0, waits.x1) == (0, 2), "whoever is not served waits, sent or not"
    above, _, below, paged = figures[0].axes
    assert above.get_title(loc="left") == "a: 4 steps" and above.get_ylim()[0] == 1.6
    assert [patch.get_data().values.max() for patch in below.patches] == [2, 7]
    assert [patch.get_data().values.max() for patch in paged.patches] == [2, 2]
    plots.places("Two", "See.", {"a": run, "b": run}, places=3)
    below = figures[1].axes[2]
    assert [list(patch.get_data().values) for patch in below.patches] == [[1] * 4, [3] * 4]
    assert "places" in below.get_ylabel() and "(of 3)" in below.get_ylabel()


def test_price(pictures):
    curve = [(0.1, 10.0), (1.0, 1.0)]
    plots.price(curve, (0.5, 2.0), {0.1: 10.0, 2.0: 0.5}, "reading")
    assert one(pictures).table == [{"busy (%)": 10, "price of a million": 10}]


def test_claims_quote_the_constants_and_explain_themselves():
    lengths = paged_attention.draw_lengths(60)
    usage = {p: paged_attention.simulate_contiguous(lengths, p) for p in paged_attention.CONTIGUOUS}
    usage["paged"] = usage["oracle"]
    sizes = ((256, 2**12), (512, 2**12), (512, 2**13))
    shown = defined_in("03_reading_notes", "0d3a9489", fa=flash_attention)
    counted = [
        {"tokens": n, "fast memory": m, "tiles move": shown["moved_in_tiles"](n, m)}
        | flash_attention.compare(n, m)
        for n, m in sizes
    ]
    tables = [claims.paged(usage), claims.flash(counted)]
    by_key = {c.key: c for table in tables for c in table}
    assert all(claim.what and claim.why for claim in by_key.values())
    assert by_key["tokens_paged"].paper == 96.3 and by_key["batch_paged"].paper == 30.42
    assert by_key["memory_size"].why == (
        "K and V are read once whatever M: without them the fit gives -1.00. The keys come in "
        "whole tiles, 16 at the largest M; with the 16.00 that would do, the fit gives -1.00."
    )
    assert by_key["memory_size"].ours == pytest.approx(-1, abs=0.1)
    assert "fitted to the 2 rows of 512 tokens" in by_key["memory_size"].what
