"""The step chart says what a recording says; the recording is a hand-made one."""

import re

import pytest

from helpers.display import card, step_chart
from helpers.engine.steps import RecordedRequest, Step, Steps, Work


def work(tokens, prefill=False, drafted=0, found=0, accepted=0, new=1):
    return Work(tokens, prefill, drafted, found, accepted, new)


def step(i, works, preempted=()):
    return Step(0.010 * i, 0.010 * i + 0.009, 64, 2 + i, 20, works, preempted)


@pytest.fixture
def steps():
    """Request 0 in two chunks, then drafts; 1 waits, is found in part, preempted and resumed."""
    return Steps(
        [RecordedRequest(0.0, 100), RecordedRequest(0.001, 40)],
        [
            step(0, {0: work(64, prefill=True, new=0)}),
            step(1, {0: work(36, prefill=True), 1: work(8, prefill=True, found=32)}),
            step(2, {0: work(4, drafted=3, accepted=1, new=2), 1: work(1)}),
            step(3, {0: work(1)}, preempted=(1,)),
            step(4, {1: work(42, prefill=True)}),
        ],
    )


def test_each_bar_is_what_the_step_did(steps):
    said = [(bar.row, bar.kind, bar.said) for bar in step_chart.bars_of(steps)]
    assert [kind for row, kind, _ in said if row == 1] == [
        "waiting",
        "found in the prefix cache",
        "prefill",
        "decode",
        "preempted",
        "prefill",
    ]
    assert "prefill of 64 tokens" in said[1][2]
    kept = [bar for bar in step_chart.bars_of(steps) if bar.kind == "decode, drafts accepted"]
    assert kept[0].kept == 0.5 and "3 drafted, 1 accepted, 2 new" in kept[0].said


def test_a_decode_step_that_also_read_a_prompt_is_seen_however_many_there_are():
    """It takes longer: what a new prompt costs those that are being answered."""
    prompts, count = range(100, step_chart.MOST_BARS, 100), step_chart.MOST_BARS
    works = [
        {0: work(1), **({1: work(8, prefill=True)} if i in prompts else {})} for i in range(count)
    ]
    recording = Steps([RecordedRequest(0.0, 1)] * 2, [step(i, one) for i, one in enumerate(works)])
    bars = [bar for bar in step_chart.bars_of(recording) if bar.row == 0]
    beside = [bar for bar in bars if bar.kind == step_chart.BESIDE]
    assert [bar.start_ms for bar in beside] == pytest.approx([10.0 * i for i in prompts])
    assert len(bars) == 2 * len(prompts) + 2, "the steps between them are one bar each time"


def test_a_planned_ahead_step_begins_when_the_one_before_has_ended(steps):
    ahead = Steps(steps.requests, [steps.steps[0], Step(0.002, 0.02, 64, 3, 20, {0: work(1)}, ())])
    assert [bar.start_ms for bar in step_chart.bars_of(ahead) if bar.kind == "decode"] == [9.0]


def test_many_decode_steps_become_one_bar():
    many = [Step(i, i + 0.99, 64, 1, 20, {0: work(1)}, ()) for i in range(step_chart.MOST_BARS)]
    bars = step_chart.bars_of(Steps([RecordedRequest(0.0, 1)], many))
    assert len(bars) == 2 and f"decode: {len(many)} steps" in bars[1].said


def test_picture_and_page(steps):
    chart = step_chart.picture("One is preempted", "See the gap.", {"a": steps, "b": steps}, None)
    bundle, _ = chart._repr_mimebundle_()
    assert chart.png.startswith(b"\x89PNG") and bundle["text/plain"].startswith("One is preempted")
    page = bundle["text/html"]
    assert page.count("<i title=") == 2 * (len(step_chart.bars_of(steps)) + len(steps.steps))
    for x, width in re.findall(r"left:([\d.]+)%;top:[\d.]+%;width:([\d.]+)%", page):
        assert 0 < float(x) <= float(x) + float(width) < 100
    assert [row["preempted"] for row in chart.table] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="No step was recorded"):
        step_chart.show("nothing", "", Steps())


def test_heights_are_tokens_and_a_found_prompt_is_as_blue_as_its_time(steps, monkeypatch):
    """Half of a step's tokens are half of its bar; a green that is long would look like time."""
    monkeypatch.setattr(step_chart, "Chart", lambda fig, *_: fig)
    tokens = step_chart.picture("One is preempted", "See the gap.", {"": steps}).axes[1]
    decode = tokens.collections[1].get_paths()[0].vertices[:, 1]
    assert tokens.get_yscale() == "linear" and tokens.get_ylim()[0] == 0 and max(decode) == 5
    assert "at most 64 of the budget of 64" in [text.get_text() for text in tokens.texts]
    [prefill] = [b for b in step_chart.bars_of(steps) if b.kind == "prefill" and b.text == "8"]
    assert prefill.kept > 0.5, "8 were computed and 32 found"
    rows = tokens.figure.axes[0]
    assert "32 found" in [text.get_text() for text in rows.texts], "however thin its bar is"


def test_below_the_rows_stands_what_was_asked_for(steps, monkeypatch):
    monkeypatch.setattr(step_chart, "Chart", lambda fig, *_: fig)
    for below, labels in (
        ((), []),
        (("tokens",), ["tokens\na step"]),
        (("blocks",), ["KV\nblocks"]),
    ):
        axes = step_chart.picture("Two", "See.", {"a": steps, "b": steps}, None, below).axes
        assert [ax.get_ylabel() for ax in axes] == ["request", *labels] * 2


def test_the_legend_names_what_can_be_seen(monkeypatch):
    """A wait of 0.3 of 100 ms is thinner than a line, however many recordings have one."""
    monkeypatch.setattr(step_chart, "Chart", lambda fig, *_: fig)
    first = Step(0.0003, 0.009, 64, 2, 20, {0: work(8, prefill=True)}, ())
    one = Steps([RecordedRequest(0.0, 8)], [first, *(step(i, {0: work(1)}) for i in range(1, 10))])
    [legend] = step_chart.picture("Two", "See.", {"a": one, "b": one}).legends
    assert [text.get_text() for text in legend.get_texts()] == ["prefill", "decode"]


def test_the_terms_are_labelled_with_the_requests_own_times(steps, monkeypatch):
    shown = []
    monkeypatch.setattr(card, "show", shown.append)
    terms = step_chart.label("Your request.", steps, 1)
    assert terms["queue_ms"] == pytest.approx(9) and terms["ttft_ms"] == pytest.approx(18)
    assert terms["first_itl_ms"] == pytest.approx(10) and terms["tpot_ms"] == pytest.approx(15)
    assert shown[0].table == [terms]
