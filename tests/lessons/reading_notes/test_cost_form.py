"""helpers/lessons/reading_notes/cost_form.py: which speed is priced, the form, the changes."""

import pytest

from helpers.display import card
from helpers.lessons.papers import cost
from helpers.lessons.reading_notes import cost_form
from helpers.results.store import Results
from helpers.results.wording import kind_of
from tests.notebook_tools import Outputs


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    return Results("03_reading_notes", tmp_path)


def test_throughput_prefers_the_best_of_notebook_1(store):
    assert cost_form.throughput_on_record(store) is None
    store.save("continuous_batching", "continuous", {"output_tokens_per_s": 100.0})
    assert cost_form.throughput_on_record(store)[0] == 100
    Results("01_review", store.directory).save(
        "baseline", "one_at_a_time", {"output_tokens_per_s": 50.0}
    )
    assert cost_form.throughput_on_record(store) == (50.0, "notebook 1, one request at a time")
    Results("01_review", store.directory).save("optimised", "best", {"output_tokens_per_s": 400.0})
    assert cost_form.throughput_on_record(store) == (400.0, "notebook 1, best configuration")


def test_a_recorded_7b_is_priced_unless_the_own_machine_is_asked_for(store):
    speed, source = cost_form.throughput(store, "here")
    assert source.startswith("recorded: NVIDIA H100"), "nothing was measured here yet"
    store.save("continuous_batching", "continuous", {"output_tokens_per_s": 90_000.0})
    assert cost_form.throughput(store, "here")[0] == 90_000
    assert cost_form.throughput(store, "recorded") == (speed, source)
    assert "7B" in source and 1_000 < speed < 50_000
    with pytest.raises(ValueError, match="'here'"):
        cost_form.throughput(store, "mine")


def picture(drawn):
    def draw(inputs):
        drawn.append(inputs)
        return card.Static("<b>picture</b>", "picture")

    return draw


def test_cost_form_without_widgets_saves_once(store, capsys):
    drawn = []
    cost_form.cost_form(store, cost.CostInputs(2.0, 1000, 0.5), "a test", picture(drawn))
    saved = store.get("cost", "per_million")
    assert len(drawn) == 1 and saved["metrics"]["cost_per_million_tokens"] == pytest.approx(4 / 3.6)
    assert saved["throughput_from"] == "a test" and saved["price_from"] == "parameter"
    assert kind_of(saved) == "calculated", "a price is not measured"
    assert "picture" in capsys.readouterr().out


def test_cost_form_with_widgets_follows_the_student(store, monkeypatch):
    notebook, drawn = Outputs(monkeypatch), []
    cost_form.cost_form(store, cost.CostInputs(2.0, 1000, 0.5), "a test", picture(drawn))
    notebook.type("4,0 EUR", "cost_price_per_hour")
    assert drawn[-1].price_per_hour == 4.0 and len(notebook.shown) == 2
    saved = store.get("cost", "per_million")
    assert saved["price_from"] == "typed" and saved["metrics"][
        "cost_per_million_tokens"
    ] == pytest.approx(8 / 3.6)
    notebook.type("1", "cost_utilisation")
    notebook.type("30 %", "cost_overhead")
    assert (drawn[-1].utilisation, drawn[-1].overhead) == (1.0, pytest.approx(0.3))


@pytest.mark.parametrize("price", ["0", "-1", "cheap", "nan", "3 ms"])
def test_a_price_that_is_none_is_refused_in_a_sentence(store, monkeypatch, price):
    notebook, drawn = Outputs(monkeypatch), []
    cost_form.cost_form(store, cost.CostInputs(2.0, 1000, 0.5), "a test", picture(drawn))
    reply = notebook.type(price, "cost_price_per_hour")
    assert not reply["taken"] and f"“{price}”" in reply["said"]
    assert "The picture keeps 2." in reply["said"] and drawn[-1].price_per_hour == 2.0
    assert len(store.records(experiment="cost", latest=False)) == 1


def test_changes_to_the_price_point_the_right_way():
    rows = {r["change"]: r["ratio"] for r in cost_form.cost_rows(cost.CostInputs(2.0, 1000, 0.4))}
    assert rows["busy twice the hours"] == pytest.approx(0.5) and rows[
        "busy half the hours"
    ] == pytest.approx(2)
    assert rows["half the price (spot, reserved)"] == pytest.approx(0.5) and rows[
        "1.5 times the tokens/s (tuning)"
    ] == pytest.approx(2 / 3)
    assert cost_form.cost_rows(cost.CostInputs(2.0, 1000, 0.9))[0]["ratio"] >= 0.5, (
        "nobody is busy more than all hours"
    )
