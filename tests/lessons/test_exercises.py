"""Exercises: what is saved, what is shown without a front end, what survives a new kernel."""

import json
import math

import pytest

from helpers.lessons import exercises
from helpers.results.store import Results
from tests.notebook_tools import WIDGET, Outputs, kinds, run_cells, to_html


@pytest.fixture
def store(tmp_path):
    return Results("01_review", tmp_path)


HEAD = (
    "from helpers.results.store import Results\n"
    "from helpers.lessons import exercises\n"
    "store = Results('01_review', {folder!r})"
)


def a_guess(store, key, question, formula, unit, given=None):
    """A question, and what the formula says of it, as two cells of a notebook have it."""
    guess = exercises.predict(store, key, question, unit, given)
    guess.formula = formula
    return guess


def lines_of(store):
    return (
        [json.loads(line) for line in store.path.read_text().splitlines()]
        if store.path.exists()
        else []
    )


# ---------------------------------------------------------------- without a front end


def test_headless_uses_the_formula_and_says_so(store, capsys):
    guess = a_guess(store, "kv", "How many tokens fit?", 1000.0, "tokens")
    assert (guess.value, guess.source) == (1000.0, "formula")
    assert not lines_of(store), "a prediction that nobody made is not saved before it is compared"
    record = exercises.reconcile(store, guess, 1050.0, why="Blocks are whole.")
    out = capsys.readouterr().out
    assert "nobody typed one" in out and "within 5 %" in out and "Blocks are whole." in out
    saved = store.get("prediction", "kv")
    assert (
        saved["id"] == record["id"] and saved["source"] == "formula" and saved["unit"] == "tokens"
    )
    assert saved["metrics"] == {"predicted": 1000.0, "measured": 1050.0, "ratio": 1.05}


@pytest.mark.parametrize("kind", ["simulated", "calculated"])
def test_a_number_that_nothing_measured_is_not_called_measured(store, capsys, kind):
    guess = a_guess(store, "kib", "KiB of a token?", 800.0, "KiB", given=600)
    exercises.reconcile(store, guess, 800.0, kind=kind)
    out, saved = capsys.readouterr().out, store.get("prediction", "kib")
    assert f"{kind}: 800" in out and saved["how"] == kind
    assert "measure" not in out and "measure" not in saved["residual"]
    for span in ((500.0, 900.0), (700.0, 900.0)):
        exercises.reconcile(store, guess, 800.0, kind=kind, span=span)
    out = capsys.readouterr().out
    noun = exercises.KINDS[kind]
    assert f"in the range of the {noun}." in out and f"The low end of the {noun} is 1.17" in out
    assert "measure" not in out


def test_a_formula_never_confirms_itself(store, capsys):
    guess = a_guess(store, "kib", "KiB of a token?", 800.0, "KiB")
    exercises.reconcile(store, guess, 800.0, why="Two bytes.", kind="calculated")
    out = capsys.readouterr().out
    assert "within" not in out and "predicted" not in out.replace("Nobody typed a prediction", "")
    assert "to hold against it. Two bytes." in out
    # What a student typed is held against the calculation; the formula beside it is not.
    guess = a_guess(store, "kib", "KiB of a token?", 800.0, "KiB", given=790)
    exercises.reconcile(store, guess, 800.0, kind="calculated")
    out = capsys.readouterr().out
    assert "within 2 % of the calculation" in out and "formula's prediction" not in out
    # A simulation is no formula: it may confirm one.
    guess = a_guess(store, "gap", "Longest gap?", 20.0, "ms")
    exercises.reconcile(store, guess, 20.0, kind="simulated")
    assert "within 1 % of the simulation" in capsys.readouterr().out


def test_an_unknown_kind_is_refused(store):
    guess = a_guess(store, "kib", "KiB of a token?", 800.0, "KiB")
    with pytest.raises(ValueError, match="'calculated'"):
        exercises.reconcile(store, guess, 800.0, kind="guessed")


def test_a_parameter_comes_before_the_formula_and_typed_before_both(store):
    assert a_guess(store, "kv", "?", 10.0, "GiB", given=12).source == "parameter"
    store.save("prediction", "kv", {"predicted": 9.0}, source="student", unit="GiB")
    guess = a_guess(store, "kv", "?", 10.0, "GiB", given=12)
    assert (guess.value, guess.source) == (9.0, "student")
    exercises.reconcile(store, guess, 18.0)
    again = a_guess(store, "kv", "?", 10.0, "GiB")
    assert (again.value, again.source, again.measured) == (9.0, "student", 18.0), (
        "still there after it was compared"
    )


@pytest.mark.parametrize(
    ("predicted", "measured", "said"),
    [
        (10.0, 10.4, "within 4 %"),
        (10.0, 14.0, "The measurement is 1.40 times the prediction.\n"),
        (10.0, 40.0, "The measurement is 4.00 times the prediction.\n"),
        (10.0, 6.0, "The prediction is 1.67 times the measurement.\n"),
        (42.0, 0.0084, "5,000 times the measurement.\n"),
        (3.0, 0.0, "zero"),
        (0.0, 3.0, "no ratio"),
    ],
)
def test_the_sentence_gives_the_ratio_and_no_cause(store, capsys, predicted, measured, said):
    exercises.reconcile(store, a_guess(store, "k", "?", predicted, "s"), measured)
    assert said in capsys.readouterr().out
    assert store.get("prediction", "k")["metrics"]["measured"] == measured


def test_the_reason_follows_the_formula_when_the_student_guessed(store, capsys):
    store.save("prediction", "w", {"predicted": 84.0}, source="student", unit="GiB")
    exercises.reconcile(
        store, a_guess(store, "w", "?", 40.0, "GiB"), 42.0, why="Norms are left out."
    )
    said = store.get("prediction", "w")["residual"]
    assert said == (
        "Your prediction is 2.00 times the measurement. "
        "The formula's prediction is within 5 % of the measurement. Norms are left out."
    ), said


def test_a_formula_that_missed_for_a_known_reason_gives_it_alone(store):
    guess = a_guess(store, "k", "?", 1.07, "x")
    exercises.reconcile(store, guess, 1.77, why="It took a = 0.7; measured: a = 0.99.")
    assert store.get("prediction", "k")["residual"] == (
        "The measurement is 1.65 times the prediction. It took a = 0.7; measured: a = 0.99."
    )


def test_why_may_depend_on_the_outcome(store, capsys):
    guess = a_guess(store, "k", "?", 10.0, "s")
    exercises.reconcile(
        store, guess, 20.0, why=lambda ratio: f"Twice, {ratio:.0f}." if ratio > 1.5 else ""
    )
    assert "Twice, 2." in capsys.readouterr().out


@pytest.mark.parametrize("measured", [None, float("nan"), float("inf")])
def test_nothing_measured_is_said_and_not_saved(store, capsys, measured):
    guess = a_guess(store, "k", "?", 10.0, "s")
    assert exercises.reconcile(store, guess, measured) is None
    assert "measurement is missing" in capsys.readouterr().out and not lines_of(store)


def test_where_only_the_ends_were_tried_no_range_is_claimed(store, capsys):
    stated, grades = "0.6 held, 1 was missed", ("below what held", "open", "above what was missed")
    for predicted, grade in ((0.59, 0), (0.6, 1), (0.99, 1), (1.0, 2), (1.5, 2)):
        guess = exercises.predict(store, "x", "Rate?", "x", given=predicted)
        guess.formula = 1.01
        exercises.reconcile(store, guess, 0.6, span=(0.6, 1.0), stated=stated, grades=grades)
        said = capsys.readouterr().out
        assert "measured: 0.6 held, 1 was missed" in said and "middle" not in said
        assert f"The prediction is {grades[grade]}." in said
        assert "The formula's prediction is above what was missed." in said
        assert "within" not in said, "a number that was missed is not nearly right"
        saved = lines_of(store)[-1]
        assert (saved["stated"], saved["grade"]) == (stated, grades[grade])
    guess, span = a_guess(store, "y", "?", 80, "x"), (0.6, math.inf)
    exercises.reconcile(store, guess, 0.6, span=span, stated="0.6 held", grades=grades)
    assert "is open" in capsys.readouterr().out, "nothing above it was missed"
    assert "measured_high" not in lines_of(store)[-1]["metrics"]


def test_a_prediction_inside_the_measured_range_is_not_called_wrong(store, capsys):
    for predicted, inside in ((0.96, True), (1.4, False)):
        guess = a_guess(store, "x", "Speed-up?", predicted, "x")
        exercises.reconcile(store, guess, 0.43, span=(0.2, 1.1))
        said = capsys.readouterr().out
        assert "measured: 0.2 to 1.1 x (middle: 0.43)" in said
        assert (
            "lies in the range of the measurement, which is too wide to judge" in said
        ) == inside
        assert ("is 1.27 times the high end of the measurement." in said) != inside
    exercises.reconcile(store, a_guess(store, "y", "?", 1.0, "x"), 1.1, span=(0.9, 1.2))
    assert "lies in the range of the measurement." in capsys.readouterr().out
    kept = lines_of(store)[-1]["metrics"]
    assert (kept["measured_low"], kept["measured_high"]) == (0.9, 1.2)


def test_answers_choices_and_ticks_without_a_front_end(store, capsys):
    assert not exercises.ask(store, "insight_1", "What did you learn?")
    assert "No answer yet" in capsys.readouterr().out and not lines_of(store)
    exercises.ask(store, "insight_1", "What did you learn?", given="Batching.")
    exercises.ask(store, "insight_1", "What did you learn?", given="Batching.")
    assert [(r["variant"], r["text"], r["source"]) for r in lines_of(store)] == [
        ("insight_1", "Batching.", "parameter")
    ]
    store.save("answer", "insight_1", {}, text="My own words", source="typed")
    answer = exercises.ask(store, "insight_1", "What did you learn?", given="Batching.")
    assert answer.text == "My own words" and len(lines_of(store)) == 2, (
        "a parameter never replaces a student's words"
    )
    with pytest.raises(ValueError, match="'a', 'b'"):
        exercises.choose(store, "pick", "Which?", ["a", "b"], given="c")
    assert exercises.choose(store, "pick", "Which?", ["a", "b"], given="b").text == "b"


def test_a_tick_is_kept(store, capsys):
    assert not exercises.tick(store, "paper", "Read the paper")
    store.save("checklist", "paper", {}, done=True, source="student")
    assert exercises.tick(store, "paper", "Read the paper")
    out = capsys.readouterr().out
    assert "not ticked yet" in out and "ticked by you" in out


def test_hints_open_one_after_the_other(capsys):
    with pytest.raises(ValueError):
        exercises.hint()
    exercises.hint("Look at `block_size`.", "Count a < b.", solution="16 * 4\n= 64")
    assert "hint 1 of 2, then hint 2 of 2, then solution" in capsys.readouterr().out
    done = run_cells(
        "from helpers.lessons.exercises import hint\n"
        "hint('Look at `block_size`.', 'Count a < b.', solution='64')"
    )
    page = done.cells[0].outputs[0].data["text/html"]
    assert page.count("<details") == 3 and "open" not in page.replace("</details>", "")
    assert page.index("block_size</code>") < page.index("Count a &lt; b.") < page.index(">64")
    assert page.count("</details></div></details>") >= 1, "the second hint lies inside the first"


def test_papermill_and_nbconvert_show_text_never_a_widget(tmp_path):
    done = run_cells(
        HEAD.format(folder=str(tmp_path)),
        "guess = exercises.predict(store, 'kv', 'How many <tokens>?', 'tokens')",
        "guess.formula = 1000.0\nexercises.reconcile(store, guess, 1500.0)",
        "exercises.ask(store, 'insight_1', 'What did you learn?')\n"
        "exercises.choose(store, 'c', 'Which?', ['a', 'b'])",
        "exercises.tick(store, 'paper', 'Read the paper')",
    )
    assert WIDGET not in kinds(done)
    assert [len(cell.outputs) for cell in done.cells] == [0, 1, 1, 2, 1], (
        "one output each, also as a cell's last line"
    )
    page = to_html(done)
    assert "How many &lt;tokens&gt;?" in page and "nobody typed one" in page and "1.50" in page
    assert "No answer yet" in page and "Nothing chosen yet" in page and "not ticked yet" in page
    for trace in ("Widget(", "HBox(", "widget-view", "Answer(", "Tick(", "Guess("):
        assert trace not in page, trace


# ---------------------------------------------------------------- forms, driven as a front end does


@pytest.fixture
def page(monkeypatch):
    return Outputs(monkeypatch)


def test_what_is_typed_is_saved_and_shown_below(store, page):
    guess = a_guess(store, "kv", "How many?", 1000.0, "tokens")
    answer = exercises.ask(store, "insight_1", "What?")
    assert page.type("1,200", "kv")["said"] == "Saved."
    page.type("Batching", "insight_1")
    assert (guess.value, guess.source, answer.text) == (1200.0, "student", "Batching")
    assert [(r["experiment"], r["source"]) for r in lines_of(store)] == [
        ("prediction", "student"),
        ("answer", "typed"),
    ]
    assert lines_of(store)[0]["said_at"].endswith("+00:00")
    # What stands below the form is what a saved notebook keeps.
    assert "1,200 tokens (your prediction)" in str(page.shown[1]) and "Batching" in str(
        page.shown[3]
    )


def test_a_formula_may_come_after_the_question(store, capsys):
    guess = exercises.predict(store, "kv", "How many?", "tokens")
    assert "No prediction yet" in capsys.readouterr().out
    guess.formula = 1000
    exercises.reconcile(store, guess, 1050)
    assert "the formula's own prediction" in capsys.readouterr().out


def test_a_notebook_gives_its_store_and_its_parameter_once(store):
    predict = exercises.predictions(store, {"kv": 12})
    assert predict("kv", "?", "GiB").source == "parameter"
    assert predict("weights", "?", "GiB").value is None


def test_a_prediction_changed_after_the_outcome_is_shown_as_such(store, page, capsys):
    guess = a_guess(store, "gain", "How many times?", 5.0, "x")
    page.type("6", "gain")
    said_at = store.get("prediction", "gain")["said_at"]
    exercises.reconcile(store, guess, 9.1)
    first = store.get("prediction", "gain")
    assert first["seen"] and first["said_at"] == said_at
    assert "changed_after_measuring" not in first

    # Changed, the whole notebook run again, and again in a new kernel.
    again = a_guess(store, "gain", "How many times?", 5.0, "x")
    page.type("9", "gain")
    for _ in range(2):
        capsys.readouterr()
        exercises.reconcile(store, again, 9.1)
        late = store.get("prediction", "gain")
        assert late["metrics"]["predicted"] == 9.0 and late["said_before"] == 6.0
        assert late["changed_after_measuring"] is True
        shown = capsys.readouterr().out
        assert "typed after the outcome was shown (before it: 6): 9 x" in shown
        assert "is no prediction" in shown and "Your prediction is within" not in shown
        again = a_guess(store, "gain", "How many times?", 5.0, "x")
    # Back to what was said before: that is a prediction.
    page.type("6", "gain")
    exercises.reconcile(store, again, 9.1)
    assert "changed_after_measuring" not in store.get("prediction", "gain")


def test_the_first_number_after_the_outcome_is_late_too(store, page):
    guess = a_guess(store, "gain", "?", 5.0, "x")
    exercises.reconcile(store, guess, 9.1)
    assert store.get("prediction", "gain")["source"] == "formula"
    a_guess(store, "gain", "?", 5.0, "x")
    page.type("9.1", "gain")
    late = store.get("prediction", "gain")
    assert late["changed_after_measuring"] is True and late["said_before"] is None


def test_an_outcome_of_a_headless_run_was_seen_by_nobody(store, page, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WIDGETS", "0")
    exercises.reconcile(store, a_guess(store, "gain", "?", 5.0, "x"), 9.1)
    monkeypatch.setenv("WORKBOOK_WIDGETS", "1")
    a_guess(store, "gain", "?", 5.0, "x")
    page.type("9", "gain")
    assert "changed_after_measuring" not in store.get("prediction", "gain")


@pytest.mark.parametrize("text", ["not sure", "", "12 kg", "-5", "1e308 GiB"])
def test_refused_or_cleared_input_is_no_prediction(store, page, text, capsys):
    guess = a_guess(store, "kv", "?", 10.0, "GiB")
    page.type("12", "kv")
    reply = page.type(text, "kv")
    assert reply["taken"] is (text == ""), "the browser keeps what was not taken"
    assert guess.source == "formula" and "No prediction yet." in str(page.shown[-1])
    saved = store.get("prediction", "kv")
    assert saved["withdrawn"] is True and saved["metrics"] == {}
    exercises.reconcile(store, guess, 10.0)
    assert "your prediction" not in capsys.readouterr().out
    assert a_guess(store, "kv", "?", 10.0, "GiB").typed is None


def test_a_cleared_answer_is_withdrawn(store, page):
    answer = exercises.ask(store, "insight_1", "What?")
    page.type("Words")
    page.type("")
    saved = store.get("answer", "insight_1")
    assert saved["withdrawn"] is True and saved["text"] == "" and not answer
    assert "No answer yet" in str(page.shown[-1])


def test_a_hand_edit_and_the_form_are_both_shown_and_one_is_chosen(store, page):
    exercises.ask(store, "insight_1", "What?")
    document = store.directory / "my_learnings.md"

    def by_hand(old: str, new: str) -> str:
        """The document with this edit, exported again with what the form holds."""
        exercises.documents.export(store.directory)
        assert old in document.read_text()
        document.write_text(document.read_text().replace(old, new))

    def exported() -> list[str]:
        exercises.documents.export(store.directory)
        return document.read_text().splitlines()

    page.type("In the form")
    by_hand("1. In the form", "1. By hand")
    # The form has been open all the time.
    reply = page.type("Newer, in the form")
    assert reply["said"] == "Saved. The document, edited by hand, reads: By hand"
    assert list(reply["actions"]) == ["use", "keep"] and "1. By hand" in exported()
    page.type("Newer, in the form", action="keep")
    assert "1. Newer, in the form" in exported()
    by_hand("1. Newer, in the form", "1. By *hand*")
    page.shown.clear()
    exercises.ask(store, "insight_1", "What?")
    field = page.shown[0].fields[0]
    assert field["value"] == "Newer, in the form" and "By *hand*" in field["said"]
    assert page.type("Newer, in the form", action="use")["value"] == "By *hand*"
    assert store.get("answer", "insight_1")["text"] == "By *hand*" and "1. By *hand*" in exported()
    assert page.type("Third")["actions"], "the document's line stays a hand edit"


def test_a_new_kernel_restores_forms_and_ticks_can_be_taken_back(store, page):
    store.save("prediction", "kv", {"predicted": 9.0}, source="student", unit="GiB")
    store.save("answer", "insight_1", {}, text="Kept words", source="typed")
    store.save("answer", "c", {}, text="b", source="typed")
    store.save("checklist", "paper", {}, done=True, source="student")
    a_guess(store, "kv", "?", 10.0, "GiB")
    exercises.ask(store, "insight_1", "?")
    exercises.choose(store, "c", "?", ["a", "b"])
    exercises.tick(store, "paper", "Read")
    values = [shown.fields[0]["value"] for shown in page.shown if hasattr(shown, "fields")]
    assert values == ["9", "Kept words", "b", True]
    page.type(False, "paper")
    assert lines_of(store)[-1]["done"] is False and lines_of(store)[-1]["source"] == "student"


def test_a_save_that_fails_is_shown_and_the_browser_keeps_its_draft(store, page, monkeypatch):
    def full(*args, **options):
        raise OSError("No space left on device")

    exercises.ask(store, "k", "?")
    monkeypatch.setattr(store, "save", full)
    reply = page.type("text")
    assert reply["said"] == "Not saved: No space left on device" and reply["taken"] is False
