"""Exercises: predict, measure, reconcile; answers in the student's own words; hints on request.

    predict = predictions(store, PREDICTIONS)
    guess = predict("kv_tokens", "How many tokens fit the KV cache?", "tokens")
    guess.formula = 104_832            # in a later cell: the student has committed by then
    reconcile(store, guess, measured=info.kv_cache_tokens)

In JupyterLab and VS Code each is a form (forms.py). What is typed is saved a moment later, in
``measurements.jsonl`` with everything else, and is there again when the notebook is opened next
time. Without a front end (papermill, an HTML export, a terminal) the same cell leaves text: the
notebook's parameter, what the student typed earlier, or the formula's own prediction, saying which.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from helpers.display import card
from helpers.display.as_typed import in_html
from helpers.display.numbers import NotANumber, number, read_number
from helpers.lessons import forms
from helpers.lessons.cell_order import order_help as order_help  # handed on to the notebooks
from helpers.lessons.forms import Field, Reply
from helpers.results import documents

CLOSE = 0.10  # up to this relative distance a prediction is "within"
# What a prediction can be held against, and what the sentences call it.
KINDS = {"measured": "measurement", "simulated": "simulation", "calculated": "calculation"}


# ---------------------------------------------------------------- predict and reconcile


class _Quiet:
    """Shown by the form already: as a cell's last line it leaves nothing more."""

    def _ipython_display_(self) -> None:
        pass


class Record(_Quiet, dict):
    """A saved record."""


@dataclass
class Guess(_Quiet):
    """What was predicted for ``key``, and by whom. Read it after the student had time to type.

    said_at: when the student said it (UTC). seen: a person has been shown the outcome; said_before:
    what the student had said by then. measured: the outcome.
    """

    key: str
    question: str
    unit: str
    formula: float | None = None
    given: float | None = None
    typed: float | None = None
    measured: float | None = dataclasses.field(default=None, repr=False)
    said_at: str | None = None
    seen: bool = False
    said_before: float | None = None

    @property
    def source(self) -> str:
        """Who made it: "student", "parameter" (of the notebook) or "formula"."""
        if self.typed is not None:
            return "student"
        return "parameter" if self.given is not None else "formula"

    @property
    def value(self) -> float | None:
        """The student's number, else the notebook parameter's, else the formula's."""
        by = {"student": self.typed, "parameter": self.given, "formula": self.formula}
        return by[self.source]

    @property
    def late(self) -> bool:
        """Whether the student said this number after seeing the outcome."""
        return self.seen and self.typed is not None and self.typed != self.said_before

    @property
    def whose(self) -> str:
        """In words."""
        if self.late:
            before = "" if self.said_before is None else f" (before it: {number(self.said_before)})"
            return f"your number, typed after the outcome was shown{before}"
        return _WHOSE[self.source]

    def about(self) -> dict:
        """What every record says of a student's prediction: its time, and whether it is one."""
        if self.source != "student":
            return {}
        late = {"changed_after_measuring": True, "said_before": self.said_before}
        return {"said_at": self.said_at} | (late if self.late else {})


_WHOSE = {
    "student": "your prediction",
    "parameter": "prediction given as a parameter",
    "formula": "the formula's own prediction, nobody typed one",
}


def _was_seen(record: dict) -> bool:
    """Whether a person was shown the outcome with this record."""
    return record["metrics"].get("measured") is not None and bool(
        record.get("seen", record.get("source") == "student")
    )


def _remember(guess: Guess, store) -> None:
    """Take up what the student said, and saw, in earlier sessions."""
    history = store.records(experiment="prediction", variant=guess.key, latest=False)
    for record in history:
        typed = record.get("source") == "student" and not record.get("withdrawn")
        guess.typed = _finite(record["metrics"].get("predicted")) if typed else None
        guess.said_at = record.get("said_at") if typed else None
        if not guess.seen and not record.get("changed_after_measuring"):
            guess.said_before = guess.typed
        guess.seen = guess.seen or _was_seen(record)
        if typed or _was_seen(record):
            guess.measured = _finite(record["metrics"].get("measured"))


def predictions(store, given: dict[str, float]) -> Callable[[str, str, str], Guess]:
    """The notebook's `predict(key, question, unit)`. given: answers of a headless run, by key."""

    def predict_here(key: str, question: str, unit: str) -> Guess:
        return predict(store, key, question, unit, given.get(key))

    return predict_here


def predict(store, key: str, question: str, unit: str, given: float | None = None) -> Guess:
    """Ask for a number before it is measured.

    key: the exercise's name in the results. given: for runs without a front end; what a student has
    typed in an earlier session comes before it. What a formula says is set in a later cell, as
    `guess.formula`, so that the question gives nothing away.
    """
    guess = Guess(key, question, unit, given=_finite(given))
    _remember(guess, store)
    in_a_form = card.has_widgets()  # now: what the page sends later comes from no cell

    def status() -> str:
        if guess.value is None or (guess.typed is None and in_a_form):
            return "No prediction yet."
        return f"{number(guess.value)} {unit}".rstrip() + f" ({guess.whose})"

    def take(text: str) -> Reply:
        try:
            value = read_number(text, unit) if text.strip() else None
        except NotANumber as error:
            _say(store, guess, None)
            return Reply(f"{error} No prediction is saved.", taken=False)
        _say(store, guess, value)
        return Reply("No prediction yet." if value is None else "Saved.")

    shown = "" if guess.typed is None else f"{guess.typed:.10g}"
    hint_ = f"a number ({unit})" if unit else "a number"
    number_ = Field(key, question, take, "number", shown, unit=unit, hint=hint_)
    _form(store, "Predict", number_, status)
    return guess


def _say(store, guess: Guess, value: float | None) -> None:
    """The student says a number; None: takes it back."""
    if value == guess.typed:
        return
    guess.typed, guess.said_at = value, _now()
    metrics = {} if value is None else {"predicted": value}
    if value is not None and guess.measured is not None:  # keep the comparison
        metrics |= {"measured": guess.measured, "ratio": _ratio(guess.measured, value)}
    about = {"unit": guess.unit, "source": "student", "question": guess.question}
    said = {"withdrawn": True} if value is None else guess.about()
    store.save("prediction", guess.key, metrics, **about, **said)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def reconcile(
    store,
    guess: Guess,
    measured: float | None,
    why=None,
    kind: str = "measured",
    span: tuple[float, float] | None = None,
    stated: str = "",
    grades: tuple[str, str, str] = (),
) -> Record | None:
    """Show prediction and outcome with one sentence on how far apart they are; save all of it.

    measured: the outcome. why: one sentence on what explains the difference, or a function of the
    ratio (outcome / predicted) that returns it. kind: what the outcome is, one of `KINDS`; only
    "measured" is called a measurement. A formula is not held against a calculation, which would be
    itself: then nothing is said of a distance. span: the range of the outcome, when it was measured
    with one; a prediction inside it is not called too high or too low. stated: the outcome in
    words, where only the ends of span were tried (infinite: not found); grades: what a prediction
    then is below both, between them, above. Returns the saved record, or None when there is nothing
    to compare. Zero predicted gives no ratio. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it can be {', '.join(map(repr, KINDS))}")
    guess.formula = _finite(guess.formula)
    measured, unit, noun = _finite(measured), guess.unit, KINDS[kind]
    if measured is None or guess.value is None:
        what = f"The {noun}" if measured is None else "A prediction"
        said = f"{what} is missing, so there is nothing to compare."
        card.show(_card("Reconcile", guess.question, said))
        return None
    guess.measured = measured
    if card.has_widgets() and not guess.seen:
        guess.seen, guess.said_before = True, guess.typed
    ratio = _ratio(measured, guess.value)
    lines = [f"{kind}: {stated or _with_range(measured, unit, span)}"]
    said = []
    reason = _why(why, ratio)
    if guess.source == "formula" and kind == "calculated":
        said.append("Nobody typed a prediction to hold against it.")
    elif guess.late:
        lines.append(_stated(guess.whose, guess.value, unit))
        said.append(f"A number that is typed after the {noun} was shown is no prediction.")
    else:
        lines.append(_stated(guess.whose, guess.value, unit))
        whose = "Your prediction" if guess.source == "student" else "The prediction"
        said.append(_held_against(guess.value, measured, span, whose, noun, grades))
    if guess.source != "formula" and guess.formula is not None and kind != "calculated":
        lines.append(_stated("the formula's prediction", guess.formula, unit))
        whose = "The formula's prediction"
        said.append(_held_against(guess.formula, measured, span, whose, noun, grades))
    said.append(reason)  # behind the formula's own distance: it is what the formula leaves out
    sentence = " ".join(filter(None, said))
    metrics = {"predicted": guess.value, "measured": measured, "ratio": ratio}
    if span is not None and math.isfinite(span[1]):
        metrics |= {"measured_low": span[0], "measured_high": span[1]}
    about = guess.about()
    if grades:
        about |= {"stated": stated, "grade": grades[bisect(span, guess.value)]}
    record = store.save(
        "prediction",
        guess.key,
        metrics,
        how=kind,
        unit=unit,
        source=guess.source,
        residual=sentence,
        why=reason,
        question=guess.question,
        formula=guess.formula,
        seen=guess.seen,
        **about,
    )
    card.show(_card("Reconcile", guess.question, "\n".join([*lines, sentence])))
    return Record(record)


def _stated(label: str, value: float, unit: str) -> str:
    return f"{label}: {number(value)} {unit}".rstrip()


def _with_range(measured: float, unit: str, span: tuple[float, float] | None) -> str:
    if span is None:
        return f"{number(measured)} {unit}".rstrip()
    ends = f"{number(span[0])} to {number(span[1])} {unit}".rstrip()
    return f"{ends} (middle: {number(measured)})"


def _held_against(value: float, measured: float, span, whose: str, noun: str, grades=()) -> str:
    """Inside the range of the outcome, or how far from its nearer end; without one: from it."""
    if grades:
        return f"{whose} is {grades[bisect(span, value)]}."
    if span is None:
        return _distance(_ratio(measured, value), whose, noun)
    low, high = span
    if low <= value <= high:
        wide = ", which is too wide to judge it" * (high > 2 * low)
        return f"{whose} lies in the range of the {noun}{wide}."
    end, name = (low, "low") if value < low else (high, "high")
    return _distance(_ratio(end, value), whose, f"{name} end of the {noun}")


def _distance(ratio: float | None, whose: str, noun: str) -> str:
    """How far off: a ratio names no cause."""
    if ratio is None:
        return f"{whose} was 0, so there is no ratio."
    off = abs(1 / ratio - 1) if ratio else math.inf  # of the outcome, as the sentence says
    if off <= CLOSE:
        return f"{whose} is within {max(1, math.ceil(round(off * 100, 6)))} % of the {noun}."
    if ratio > 1:
        return f"The {noun} is {_times(ratio)} {whose[0].lower()}{whose[1:]}."
    if ratio > 0:
        return f"{whose} is {_times(1 / ratio)} the {noun}."
    what = "zero" if ratio == 0 else "of the other sign"
    return f"{whose} and the {noun} ({what}) have nothing in common."


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if ratio < 10 else f"{ratio:,.0f} times"


def _why(why, ratio) -> str:
    if callable(why):
        return str(why(ratio) or "") if ratio is not None else ""
    return str(why or "")


def _ratio(measured: float, predicted: float) -> float | None:
    return measured / predicted if predicted else None


def _finite(value) -> float | None:
    """A number as a float; None for None, text, NaN and infinity."""
    with contextlib.suppress(TypeError, ValueError):
        value = float(value)
        return value if math.isfinite(value) else None
    return None


# ---------------------------------------------------------------- words, choices, ticks


@dataclass
class Answer(_Quiet):
    """What the student wrote or chose. ``source``: "typed", "parameter" or "none"."""

    key: str
    text: str = ""
    source: str = "none"

    def __bool__(self) -> bool:
        return bool(self.text)


def ask(
    store,
    key: str,
    question: str,
    given: str | None = None,
    lines: int = 2,
    planners: str | None = None,
) -> Answer:
    """A free-text answer in the student's own words.

    Saved as experiment "answer", variant ``key``; cleared, it is withdrawn. given: for runs without
    a front end; never replaces what the student typed. Where the student wrote something else into
    the document by hand, both are shown, and the student chooses. planners: the planner's sentence,
    which stands in the document, marked as such, until there is an answer.
    """
    answer = _saved_answer(store, key, given)
    if planners and not answer.text:
        _keep(store, key, f"(the planner's) {planners}", "planner")
    empty = "No answer yet."
    if not card.has_widgets():
        empty = "No answer yet: open this notebook in JupyterLab and type one."

    def by_hand() -> documents.HandEdit | None:
        return documents.hand_edits(store.directory).get(key)

    def saved(said: str) -> Reply:
        """`said`, and the choice where the document has been edited to say something else."""
        edit = by_hand()
        if edit is None:
            return Reply(said)
        choice = {"use": "Use it here"}
        if answer.text:
            choice = {"use": "Use the document's", "keep": "Keep the form's"}
        differs = f"The document, edited by hand, reads: {edit.text}"
        return Reply(f"{said} {differs}".strip(), actions=choice)

    def take(text: str) -> Reply:
        _save_answer(store, answer, text.strip(), question)
        return saved("Saved." if answer.text else empty)

    def act(action: str) -> Reply:
        edit = by_hand()
        if edit is None:  # edited again in the meantime
            return Reply("The document and the form agree now.")
        if action == "use":
            _save_answer(store, answer, edit.text, question)
            return Reply("Saved: the document's text.", value=edit.text)
        _save_answer(store, answer, answer.text, question, replaces=edit.line)
        return Reply("Saved: yours; the next export puts it into the document.")

    words = Field(key, question, take, "text", answer.text, saved(""), act, lines=max(1, lines))
    _form(store, "In your words", words, lambda: answer.text or empty)
    return answer


def choose(store, key: str, question: str, options: list[str], given: str | None = None) -> Answer:
    """One of ``options``; saved like a free-text answer. ``given`` must be one of them."""
    if given is not None and given not in options:
        raise ValueError(f"{key} is {given!r}; it can be {', '.join(map(repr, options))}.")
    answer = _saved_answer(store, key, given)
    empty = "Nothing chosen yet."
    if not card.has_widgets():
        empty += f" It can be: {'; '.join(options)}."

    def take(text: str) -> Reply:
        if text in options:
            _save_answer(store, answer, text, question)
        return Reply("Saved.")

    choice = Field(key, question, take, "choice", answer.text, options=tuple(options))
    _form(store, "Choose", choice, lambda: answer.text or empty)
    return answer


def _save_answer(store, answer: Answer, text: str, question: str, replaces: str = "") -> None:
    """replaces: the document's line that the student wrote and gave up for it."""
    if text == answer.text and not replaces:
        return
    answer.text, answer.source = text, "typed" if text else "none"
    about = {"text": text, "source": "typed", "question": question, "said_at": _now()}
    about |= {"replaces": replaces} if replaces else {}
    store.save("answer", answer.key, {}, **about, **({} if text else {"withdrawn": True}))


def _saved_answer(store, key: str, given: str | None) -> Answer:
    saved = store.get("answer", key) or {}
    if saved.get("source") == "typed" and saved.get("text"):
        return Answer(key, saved["text"], "typed")
    if given is None or not str(given).strip():
        return Answer(key)
    answer = Answer(key, str(given).strip(), "parameter")
    _keep(store, key, answer.text, answer.source)
    return answer


def _keep(store, key: str, text: str, source: str) -> None:
    """Save an answer that nobody typed, unless it is the last one."""
    if (store.get("answer", key) or {}).get("text") != text:
        store.save("answer", key, {}, text=text, source=source)


@dataclass
class Tick(_Quiet):
    """An item of the checklist: true when the student has ticked it."""

    item: str
    done: bool = False

    def __bool__(self) -> bool:
        return self.done


def tick(store, item: str, label: str) -> Tick:
    """An item of the week's checklist, ticked by the student.

    What the results show to be done is ticked in the document without it (results/blanks.py).
    """
    now = Tick(item, bool((store.get("checklist", item) or {}).get("done")))

    def status() -> str:
        return "[x] ticked by you" if now.done else "[ ] not ticked yet"

    def take(ticked: bool) -> Reply:
        if ticked != now.done:
            now.done = ticked
            store.save("checklist", item, {}, done=ticked, source="student", label=label)
        return Reply("Saved.")

    box = Field(item, label, take, "tick", now.done, hint="I have done this")
    _form(store, "Checklist", box, status)
    return now


def hint(*hints: str, solution: str | None = None) -> None:
    """Hints that open one after the other, then the solution. Needs no kernel, works in exports.

    `code` between backticks and line breaks are kept. Raises ValueError without any hint.
    """
    many = len(hints) > 1
    steps = [(f"Hint {i} of {len(hints)}" if many else "Hint", h) for i, h in enumerate(hints, 1)]
    if solution is not None:
        steps.append(("Solution", solution))
    if not steps:
        raise ValueError("hint() needs at least one hint or a solution.")
    inside = ""
    for title, text in reversed(steps):
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", in_html(text))
        inside = (
            f'<details style="margin:2px 0 2px 8px"><summary style="cursor:pointer">{title}'
            f'</summary><div style="padding:2px 0 2px 16px">{text}{inside}</div></details>'
        )
    names = ", then ".join(title.lower() for title, _ in steps)
    text = f"(On request, in the notebook: {names}.)"
    card.show(card.Static(card.box(inside), text))


# ---------------------------------------------------------------- what a cell shows


def _card(kind: str, question: str, text: str) -> card.Static:
    head = f'<span style="color:{card.MUTED}">{kind}</span> <b>{in_html(question)}</b>'
    page = card.box(f"{head}<br>{in_html(text)}", card.BLUE)
    return card.Static(page, f"{kind}: {question}\n{text}")


def _form(store, title: str, field: Field, status) -> None:
    """A form and, below it, status(): what is saved, in words. Without a front end, as text."""
    if not card.has_widgets():
        card.show(_card(title, field.question, status()))
        return

    def echo() -> card.Static:
        words = status()
        return card.Static(card.box(in_html(words)), words)

    forms.show(store, title, [field], echo)
