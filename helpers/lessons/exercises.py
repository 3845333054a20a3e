"""Exercises: predict, measure, reconcile; answers in the student's own words; hints on request.

    guess = predict(store, "kv_tokens", "How many tokens fit the KV cache?", 104_832, "tokens")
    ...
    reconcile(store, guess, measured=info.kv_cache_tokens)

In JupyterLab and VS Code each is a form. What is typed is saved a moment later, in
``measurements.jsonl`` with everything else, and is there again when the notebook is opened next
time. Without a front end (papermill, an HTML export, a terminal) the same cell leaves text: the
notebook's parameter, what the student typed earlier, or the formula's own prediction, saying which.

Above each form stands what is saved so far, as plain HTML: it is what a saved or exported notebook
shows in place of the form.
"""

from __future__ import annotations

import contextlib
import html
import math
import re
from dataclasses import dataclass, field

from helpers.display import card
from helpers.display.numbers import number, read_number
from helpers.lessons import forms
from helpers.lessons.cell_order import order_help as order_help  # handed on to the notebooks

CLOSE, FAIR = 0.10, 0.50  # relative distances that the sentences speak of
# What a prediction can be held against, and what the sentences call it.
KINDS = {
    "measured": "measurement",
    "simulated": "simulation",
    "calculated": "calculation",
    "printed": "printed number",
}


# ---------------------------------------------------------------- predict and reconcile


class _Quiet:
    """Shown by the form already: as a cell's last line it leaves nothing more."""

    def _ipython_display_(self) -> None:
        pass


class Record(_Quiet, dict):
    """A saved record."""


@dataclass
class Guess(_Quiet):
    """What was predicted for ``key``, and by whom. Read it after the student had time to type."""

    key: str
    question: str
    unit: str
    formula: float | None
    given: float | None = None
    typed: float | None = None
    measured: float | None = field(default=None, repr=False)

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


_WHOSE = {
    "student": "your prediction",
    "parameter": "prediction given as a parameter",
    "formula": "the formula's own prediction, nobody typed one",
}
_TYPE_ONE = "Type a number; what comes out stands below."


def predict(
    store,
    key: str,
    question: str,
    formula_value: float | None,
    unit: str,
    given: float | None = None,
) -> Guess:
    """Ask for a number before it is measured.

    key: the exercise's name in the results. formula_value: what the notebook's formula says; not
    shown in a form, so that it gives nothing away. given: a notebook parameter for runs without a
    front end; what a student has typed in an earlier session comes before it.
    """
    guess = Guess(key, question, unit, _finite(formula_value), _finite(given))
    saved = store.get("prediction", key) or {}
    if saved.get("source") == "student":
        guess.typed = _finite(saved["metrics"].get("predicted"))
        guess.measured = _finite(saved["metrics"].get("measured"))

    def status() -> str:
        if guess.typed is None and card.has_widgets():
            return _TYPE_ONE
        if guess.value is None:
            return "No prediction yet."
        return f"{number(guess.value)} {unit} ({_WHOSE[guess.source]})"

    def take(text: str) -> str:
        if not text.strip():
            return _TYPE_ONE
        value = read_number(text, unit)
        if value is None:
            digits = f"type digits, such as 3.5 or 1.2e6, in {unit}"
            return f"“{text.strip()}” is not a number that can be read: {digits}."
        if value != guess.typed:
            guess.typed = value
            _save_typed(store, guess)
            return f"{status()}. Saved."
        return status()

    shown = "" if guess.typed is None else f"{guess.typed:.10g}"
    _form("Predict", question, status(), take, shown, unit=unit)
    return guess


def _save_typed(store, guess: Guess) -> None:
    metrics, extra = {"predicted": guess.typed}, {}
    if guess.measured is not None:
        # Keep the comparison, and say that this number was typed with the answer in sight.
        ratio = _ratio(guess.measured, guess.typed)
        metrics |= {"measured": guess.measured, "ratio": ratio}
        extra = {"changed_after_measuring": True}
    about = {"unit": guess.unit, "source": "student", "question": guess.question}
    store.save("prediction", guess.key, metrics, **about, **extra)


def reconcile(
    store,
    guess: Guess,
    measured: float | None,
    why=None,
    kind: str = "measured",
    span: tuple[float, float] | None = None,
) -> Record | None:
    """Show prediction, outcome and their ratio with one sentence; save all of it.

    measured: the outcome. why: one sentence on what explains the difference, or a function of the
    ratio (outcome / predicted) that returns it. kind: what the outcome is, one of `KINDS`; only
    "measured" is called a measurement. A formula is not held against a calculation, which would be
    itself: then nothing is said of a distance. span: the range of the outcome, when it was measured
    with one; a prediction inside it is not called too high or too low. Returns the saved record, or
    None when there is nothing to compare. Zero predicted gives no ratio. Raises ValueError for
    another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it can be {', '.join(map(repr, KINDS))}")
    forms.flush()
    measured, unit, noun = _finite(measured), guess.unit, KINDS[kind]
    if measured is None or guess.value is None:
        what = f"The {noun}" if measured is None else "A prediction"
        said = f"{what} is missing, so there is nothing to compare."
        card.show(_card("Reconcile", guess.question, said))
        return None
    guess.measured = measured
    ratio = _ratio(measured, guess.value)
    lines = [f"{kind}: {number(measured)} {unit}".rstrip()]
    said = []
    if guess.source == "formula" and kind == "calculated":
        said.append("Nobody typed a prediction, and a formula cannot confirm itself.")
    else:
        lines.append(_compared(_WHOSE[guess.source], guess.value, unit, ratio, kind))
        whose = "Your prediction" if guess.source == "student" else "The prediction"
        said.append(_inside(guess.value, span, whose) or _distance(ratio, whose, noun))
    if guess.source != "formula" and guess.formula is not None and kind != "calculated":
        # The reason belongs to what the formula leaves out: it follows the formula's own distance.
        of_formula = _ratio(measured, guess.formula)
        lines.append(_compared("the formula's prediction", guess.formula, unit, of_formula, kind))
        whose = "The formula's prediction"
        said.append(_inside(guess.formula, span, whose) or _distance(of_formula, whose, noun))
    said.append(_why(why, ratio))
    sentence = " ".join(filter(None, said))
    record = store.save(
        "prediction",
        guess.key,
        {"predicted": guess.value, "measured": measured, "ratio": ratio},
        how=kind,
        unit=unit,
        source=guess.source,
        residual=sentence,
        question=guess.question,
        formula=guess.formula,
    )
    card.show(_card("Reconcile", guess.question, "\n".join([*lines, sentence])))
    return Record(record)


def _compared(label: str, value: float, unit: str, ratio: float | None, kind: str) -> str:
    said = f"{label}: {number(value)} {unit}".rstrip()
    if ratio is None:
        return said
    share = f"{ratio:.2f}" if 0.1 <= abs(ratio) < 1000 else f"{ratio:.3g}"
    return f"{said}; {kind} / predicted = {share}"


def _inside(value: float, span: tuple[float, float] | None, whose: str) -> str:
    if span is None or not span[0] <= value <= span[1]:
        return ""
    return f"{whose} lies in the range that was measured ({number(span[0])} to {number(span[1])})."


def _distance(ratio: float | None, whose: str, noun: str) -> str:
    if ratio is None:
        return f"{whose} was 0, so there is no ratio."
    off = abs(ratio - 1)
    if off <= CLOSE:
        return f"{whose} is within {max(1, math.ceil(round(off * 100, 6)))} % of the {noun}."
    size = "something" if off <= FAIR else "something large"
    if ratio > 1:
        times = f"{_times(ratio)} {whose[0].lower()}{whose[1:]}"
        return f"The {noun} is {times}: {size} is missing from it."
    if ratio > 0:
        times = f"{_times(1 / ratio)} the {noun}"
        return f"{whose} is {times}: it counts {size} that is not there."
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


def ask(store, key: str, question: str, given: str | None = None, lines: int = 2) -> Answer:
    """A free-text answer in the student's own words.

    Saved as experiment "answer", variant ``key``. given: for runs without a front end; never
    replaces what the student typed.
    """
    answer = _saved_answer(store, key, given)
    empty = "No answer yet"
    elsewhere = "" if card.has_widgets() else ": open this notebook in JupyterLab and type one"

    def take(text: str) -> str:
        _save_answer(store, answer, text.strip(), question)
        return f"{answer.text}\n(saved)" if answer.text else f"{empty}."

    status = answer.text or f"{empty}{elsewhere}."
    _form("In your words", question, status, take, answer.text, lines=max(1, lines))
    return answer


def choose(store, key: str, question: str, options: list[str], given: str | None = None) -> Answer:
    """One of ``options``; saved like a free-text answer. ``given`` must be one of them."""
    if given is not None and given not in options:
        raise ValueError(f"{key} is {given!r}; it can be {', '.join(map(repr, options))}.")
    answer = _saved_answer(store, key, given)
    empty = "Nothing chosen yet."
    listed = "" if card.has_widgets() else f" It can be: {'; '.join(options)}."

    def take(text: str) -> str:
        if text in options:
            _save_answer(store, answer, text, question)
        return answer.text or empty

    status = answer.text or f"{empty}{listed}"
    _form("Choose", question, status, take, answer.text, options=options)
    return answer


def _save_answer(store, answer: Answer, text: str, question: str) -> None:
    if text != answer.text:
        answer.text, answer.source = text, "typed"
        store.save("answer", answer.key, {}, text=text, source="typed", question=question)


def _saved_answer(store, key: str, given: str | None) -> Answer:
    saved = store.get("answer", key) or {}
    if saved.get("source") == "typed" and saved.get("text"):
        return Answer(key, saved["text"], "typed")
    if given is None or not str(given).strip():
        return Answer(key)
    answer = Answer(key, str(given).strip(), "parameter")
    if saved.get("text") != answer.text:
        store.save("answer", key, {}, text=answer.text, source="parameter")
    return answer


@dataclass
class Tick(_Quiet):
    """An item of the checklist: true when it is done, by "student" or "evidence"."""

    item: str
    done: bool = False
    by: str | None = None

    def __bool__(self) -> bool:
        return self.done


def tick(store, item: str, label: str, evidence: str | None = None) -> Tick:
    """An item of the week's checklist.

    evidence: what shows that it is done (a measurement that was saved, a page that was opened); the
    item is then ticked by it. Else the student ticks it.
    """
    saved = store.get("checklist", item) or {}
    now = Tick(item, bool(saved.get("done")), saved.get("source"))
    if evidence:
        if not (now.done and now.by == "evidence" and saved.get("evidence") == evidence):
            about = {"done": True, "source": "evidence", "evidence": evidence, "label": label}
            store.save("checklist", item, {}, **about)
        card.show(_card("Checklist", label, f"[x] done, as shown by: {evidence}"))
        return Tick(item, True, "evidence")

    def status() -> str:
        if not now.done:
            return "[ ] not ticked yet"
        if now.by == "student":
            return "[x] ticked by you"
        return f"[x] done, as shown by: {saved.get('evidence')}"

    def take(ticked: bool) -> str:
        if ticked != now.done:
            now.done, now.by = ticked, "student"
            store.save("checklist", item, {}, done=ticked, source="student", label=label)
        return status()

    _form("Checklist", label, status(), take, now.done, tick=True)
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
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
        inside = (
            f'<details style="margin:2px 0 2px 8px"><summary style="cursor:pointer">{title}'
            f'</summary><div style="padding:2px 0 2px 16px">{_lines(text)}{inside}</div></details>'
        )
    names = ", then ".join(title.lower() for title, _ in steps)
    text = f"(On request, in the notebook: {names}.)"
    card.show(card.Static(f'<div style="{card.CARD}">{inside}</div>', text))


# ---------------------------------------------------------------- what a cell shows


def _card(kind: str, question: str, text: str) -> card.Static:
    head = f'<span style="color:{card.MUTED}">{kind}</span> <b>{html.escape(question)}</b>'
    style = f"{card.CARD};border-left:4px solid #0072B2"
    body = f'<div style="{style}">{head}<br>{_lines(html.escape(text))}</div>'
    return card.Static(body, f"{kind}: {question}\n{text}")


def _lines(escaped: str) -> str:
    return escaped.replace("\n", "<br>")


def _form(kind: str, question: str, status: str, take, value, unit: str = "", **kind_of) -> None:
    """Show the saved state as text and, where there is a front end, the control that changes it.

    take(value) saves and returns the new state in words. kind_of: see ``forms.control``.
    """
    if not card.has_widgets():
        card.show(_card(kind, question, status))
        return
    from IPython.display import display

    place = card.Place()
    place.put(_card(kind, question, status))
    made = forms.control(question, value, unit=unit, **kind_of)
    display(forms.row(made, unit))
    forms.on_change(made, take, lambda said: place.put(_card(kind, question, said)))
