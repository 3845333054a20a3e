"""Exercises: predict, measure, reconcile; answers in the student's own words; hints on request.

    guess = predict(store, "kv_tokens", "How many tokens fit the KV cache?", formula_value=104_832, unit="tokens")
    ...
    reconcile(store, guess, measured=info.kv_cache_tokens)

In JupyterLab and VS Code each is a form. What is typed is saved a moment
later, in ``measurements.jsonl`` with everything else, and is there again when
the notebook is opened next time. Without a front end (papermill, an HTML
export, a terminal) the same cell leaves text: the notebook's parameter, what
the student typed earlier, or the formula's own prediction, saying which.

Above each form stands what is saved so far, as plain HTML: it is what a saved
or exported notebook shows in place of the form.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import html
import json
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from helpers import REPO
from helpers.display import card
from helpers.display.numbers import number, read_number

SAVE_AFTER_S = 0.7  # of no typing
CLOSE, FAIR = 0.10, 0.50  # relative distances that the sentences speak of


# ---------------------------------------------------------------- predict and reconcile


class _Quiet:
    """Shown by the form already: as a cell's last line it leaves nothing more."""

    def _ipython_display_(self) -> None:
        pass


class Record(_Quiet, dict):
    """A saved record."""


@dataclass
class Prediction(_Quiet):
    """What was predicted for ``key``, and by whom. Read it after the student had time to type.

    ``value``: the student's number, else the notebook parameter's, else the
    formula's. ``source``: "student", "parameter" or "formula" accordingly.
    """

    key: str
    question: str
    unit: str
    formula: float | None
    given: float | None = None
    typed: float | None = None
    measured: float | None = field(default=None, repr=False)

    @property
    def source(self) -> str:
        if self.typed is not None:
            return "student"
        return "parameter" if self.given is not None else "formula"

    @property
    def value(self) -> float | None:
        return {"student": self.typed, "parameter": self.given, "formula": self.formula}[
            self.source
        ]


_WHOSE = {"student": "your prediction", "parameter": "prediction given as a parameter", "formula": "the formula's own prediction, nobody typed one"}  # fmt: skip


def predict(
    store,
    key: str,
    question: str,
    formula_value: float | None,
    unit: str,
    given: float | None = None,
) -> Prediction:
    """Ask for a number before it is measured.

    key: the exercise's name in the results. formula_value: what the notebook's
    formula says; not shown in a form, so that it gives nothing away. given: a
    notebook parameter for runs without a front end; what a student has typed
    in an earlier session comes before it.
    """
    prediction = Prediction(key, question, unit, _finite(formula_value), _finite(given))
    saved = store.get("prediction", key) or {}
    if saved.get("source") == "student":
        prediction.typed = _finite(saved["metrics"].get("predicted"))
        prediction.measured = _finite(saved["metrics"].get("measured"))

    def status() -> str:
        if prediction.typed is None and card.has_widgets():
            return "Type a number; the measurement comes below."
        if prediction.value is None:
            return "No prediction yet."
        return f"{number(prediction.value)} {unit} ({_WHOSE[prediction.source]})"

    def take(text: str) -> str:
        if not text.strip():
            return "Type a number; the measurement comes below."
        value = read_number(text, unit)
        if value is None:
            return f"“{text.strip()}” is not a number that can be read: type digits, such as 3.5 or 1.2e6, in {unit}."
        if value == prediction.typed:
            return status()
        prediction.typed = value
        metrics, extra = {"predicted": value}, {}
        if prediction.measured is not None:
            # Keep the comparison, and say that this number was typed with the answer in sight.
            metrics |= {
                "measured": prediction.measured,
                "ratio": _ratio(prediction.measured, value),
            }
            extra = {"changed_after_measuring": True}
        store.save(
            "prediction", key, metrics, unit=unit, source="student", question=question, **extra
        )
        return f"{status()}. Saved."

    _form(
        "Predict",
        question,
        status(),
        take,
        "" if prediction.typed is None else f"{prediction.typed:.10g}",
        unit=unit,
    )
    return prediction


def reconcile(
    store, prediction: Prediction, measured: float | None, why=None, how: str = "measured"
) -> Record | None:
    """Show prediction, measurement and their ratio with one sentence; save all of it.

    why: one sentence on what explains the difference, or a function of the
    ratio (measured / predicted) that returns it. how: what the card calls the
    number ("calculated" for one that nothing has measured). Returns the saved record, or
    None when there is nothing to compare. Zero predicted gives no ratio.
    """
    _flush()
    measured, unit = _finite(measured), prediction.unit
    if measured is None or prediction.value is None:
        what = "The measurement" if measured is None else "A prediction"
        card.show(
            _card(
                "Reconcile",
                prediction.question,
                f"{what} is missing, so there is nothing to compare.",
            )
        )
        return None
    prediction.measured = measured
    ratio = _ratio(measured, prediction.value)
    rows = [(_WHOSE[prediction.source], prediction.value, ratio)]
    said = [
        _distance(ratio, {"student": "Your prediction"}.get(prediction.source, "The prediction"))
    ]
    if prediction.source != "formula" and prediction.formula is not None:
        # The reason belongs to what the formula leaves out, so it follows the formula's own distance.
        formula_ratio = _ratio(measured, prediction.formula)
        rows.append(("the formula's prediction", prediction.formula, formula_ratio))
        said.append(_distance(formula_ratio, "The formula's prediction"))
    sentence = " ".join(part for part in (*said, _why(why, ratio)) if part)
    record = Record(store.save(
        "prediction", prediction.key, {"predicted": prediction.value, "measured": measured, "ratio": ratio},
        how=how, unit=unit, source=prediction.source, residual=sentence, question=prediction.question, formula=prediction.formula,
    ))  # fmt: skip
    text = [f"{how}: {number(measured)} {unit}"]
    cells = (
        f"<tr><td>{how}</td><td><b>{number(measured)} {html.escape(unit)}</b></td><td></td></tr>"
    )
    for label, value, one in rows:
        share = (
            ""
            if one is None
            else f"{how} / predicted = {one:.2f}"
            if 0.1 <= abs(one) < 1000
            else f"{how} / predicted = {one:.3g}"
        )
        text.append(f"{label}: {number(value)} {unit}   {share}".rstrip())
        cells += f"<tr><td>{html.escape(label)}</td><td>{number(value)} {html.escape(unit)}</td><td>{share}</td></tr>"
    cells = cells.replace("<td>", '<td style="padding:1px 14px 1px 0;text-align:left">').replace(
        "<tr>", f'<tr style="background:{card.PAPER};color:{card.INK}">'
    )
    body = f'<table style="border-collapse:collapse;margin:2px 0">{cells}</table>{html.escape(sentence)}'
    card.show(_card("Reconcile", prediction.question, "\n".join([*text, sentence]), body))
    return record


def _distance(ratio: float | None, whose: str) -> str:
    if ratio is None:
        return f"{whose} was 0, so there is no ratio."
    off = abs(ratio - 1)
    if off <= CLOSE:
        return f"{whose} is within {max(1, math.ceil(round(off * 100, 6)))} % of the measurement."
    size = "something" if off <= FAIR else "something large"
    if ratio > 1:
        return f"The measurement is {_times(ratio)} {whose[0].lower()}{whose[1:]}: {size} is missing from it."
    if ratio > 0:
        return (
            f"{whose} is {_times(1 / ratio)} the measurement: it counts {size} that is not there."
        )
    return f"{whose} and the measurement ({'zero' if ratio == 0 else 'of the other sign'}) have nothing in common."


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
    """A free-text answer in the student's own words; saved as experiment "answer", variant ``key``."""
    answer = _saved_answer(store, key, given)

    def take(text: str) -> str:
        text = text.strip()
        if text != answer.text:
            answer.text, answer.source = text, "typed"
            store.save("answer", key, {}, text=text, source="typed", question=question)
        return f"{text}\n(saved)" if text else "No answer yet."

    status = answer.text or (
        "No answer yet."
        if card.has_widgets()
        else "No answer yet: open this notebook in JupyterLab and type one."
    )
    _form("In your words", question, status, take, answer.text, lines=max(1, lines))
    return answer


def choose(store, key: str, question: str, options: list[str], given: str | None = None) -> Answer:
    """One of ``options``; saved like a free-text answer. ``given`` must be one of them."""
    if given is not None and given not in options:
        raise ValueError(f"{key} is {given!r}; it can be {', '.join(map(repr, options))}.")
    answer = _saved_answer(store, key, given)

    def take(text: str) -> str:
        if text in options and text != answer.text:
            answer.text, answer.source = text, "typed"
            store.save("answer", key, {}, text=text, source="typed", question=question)
        return answer.text or "Nothing chosen yet."

    status = answer.text or "Nothing chosen yet." + (
        "" if card.has_widgets() else f" It can be: {'; '.join(options)}."
    )
    _form("Choose", question, status, take, answer.text, options=options)
    return answer


def _saved_answer(store, key: str, given: str | None) -> Answer:
    saved = store.get("answer", key) or {}
    if saved.get("source") == "typed" and saved.get("text"):
        return Answer(key, saved["text"], "typed")
    if given is not None and str(given).strip():
        answer = Answer(key, str(given).strip(), "parameter")
        if saved.get("text") != answer.text:
            store.save("answer", key, {}, text=answer.text, source="parameter")
        return answer
    return Answer(key)


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

    evidence: what shows that it is done (a measurement that was saved, a page
    that was opened); the item is then ticked by it. Else the student ticks it.
    """
    saved = store.get("checklist", item) or {}
    now = Tick(item, bool(saved.get("done")), saved.get("source"))
    if evidence:
        if not (now.done and now.by == "evidence" and saved.get("evidence") == evidence):
            store.save(
                "checklist", item, {}, done=True, source="evidence", evidence=evidence, label=label
            )
        card.show(_card("Checklist", label, f"[x] done, as shown by: {evidence}"))
        return Tick(item, True, "evidence")

    def status() -> str:
        if not now.done:
            return "[ ] not ticked yet"
        return (
            "[x] ticked by you"
            if now.by == "student"
            else f"[x] done, as shown by: {saved.get('evidence')}"
        )

    def take(ticked: bool) -> str:
        if ticked != now.done:
            now.done, now.by = ticked, "student"
            store.save("checklist", item, {}, done=ticked, source="student", label=label)
        return status()

    _form("Checklist", label, status(), take, now.done, checkbox=True)
    return now


def hint(*hints: str, solution: str | None = None) -> None:
    """Hints that open one after the other, then the solution. Needs no kernel, works in exports.

    `code` between backticks and line breaks are kept.
    """
    steps = [
        (f"Hint {i} of {len(hints)}" if len(hints) > 1 else "Hint", text)
        for i, text in enumerate(hints, 1)
    ]
    if solution is not None:
        steps.append(("Solution", solution))
    if not steps:
        raise ValueError("hint() needs at least one hint or a solution.")
    inside = ""
    for title, text in reversed(steps):
        body = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False)).replace(
            "\n", "<br>"
        )
        inside = (
            f'<details style="margin:2px 0 2px 8px"><summary style="cursor:pointer">{title}</summary>'
            f'<div style="padding:2px 0 2px 16px">{body}{inside}</div></details>'
        )
    names = ", then ".join(title.lower() for title, _ in steps)
    card.show(
        card.Static(
            f'<div style="{card.CARD}">{inside}</div>', f"(On request, in the notebook: {names}.)"
        )
    )


# ---------------------------------------------------------------- forms

_pending: dict[
    int, tuple
] = {}  # id of a control -> (timer, save): saves that wait for the end of typing


def _card(kind: str, question: str, text: str, body: str | None = None) -> card.Static:
    body = html.escape(text).replace("\n", "<br>") if body is None else body
    return card.Static(
        f'<div style="{card.CARD};border-left:4px solid #0072B2"><span style="color:{card.MUTED}">{kind}</span> '
        f"<b>{html.escape(question)}</b><br>{body}</div>",
        f"{kind}: {question}\n{text}",
    )


def _form(
    kind, question, status, take, value, unit="", lines=0, options=None, checkbox=False
) -> None:
    """Show the saved state as text and, where there is a front end, the widget that changes it.

    take(value) saves and returns the new state in words. It is called when
    typing pauses, and at the latest before the next cell runs: always by the
    kernel's main thread, which is where a front end's messages arrive.
    """
    if not card.has_widgets():
        card.show(_card(kind, question, status))
        return
    import ipywidgets as w
    from IPython.display import display

    place = card.Place()
    place.put(_card(kind, question, status))
    wide = w.Layout(width="560px", max_width="98%")
    if checkbox:
        control = w.Checkbox(value=value, description="I have done this", indent=False, layout=wide)
    elif options:
        control = w.RadioButtons(
            options=options,
            value=value if value in options else None,
            layout=w.Layout(width="auto"),
        )
    elif lines:
        control = w.Textarea(
            value=value,
            rows=lines + 1,
            placeholder="Type here; it is saved as you type.",
            layout=wide,
        )
    else:
        control = w.Text(
            value=value, placeholder=f"a number ({unit})", layout=w.Layout(width="220px")
        )
    control.tooltip = question  # a screen reader says it
    shown = [control, w.Label(unit)] if unit else [control]
    display(w.HBox(shown))
    slow = isinstance(control, (w.Text, w.Textarea))

    def save() -> None:
        _pending.pop(id(control), None)
        try:
            said = take(control.value)
        except Exception as error:  # the student must see it: nobody else is there to catch it
            said = f"Not saved: {error}"
        place.put(_card(kind, question, said))

    def changed(_) -> None:
        if not slow:
            save()
            return
        if id(control) in _pending:
            _pending[id(control)][0].cancel()
        try:
            timer = asyncio.get_running_loop().call_later(SAVE_AFTER_S, save)
        except RuntimeError:  # nothing would call later
            save()
        else:
            _pending[id(control)] = timer, save

    control.observe(changed, names="value")
    _flush_before_each_cell()


def _flush(*_) -> None:
    """Save at once what was typed less than SAVE_AFTER_S ago."""
    for timer, save in list(_pending.values()):
        timer.cancel()
        save()


def _flush_before_each_cell() -> None:
    shell = sys.modules["IPython"].get_ipython()
    if shell is not None and not getattr(shell, "_workbook_flushes", False):
        shell._workbook_flushes = True
        shell.events.register("pre_run_cell", _flush)


# ---------------------------------------------------------------- cells run out of order


def order_help(notebook: str) -> None:
    """From now on a NameError says which cell of ``notebook`` makes the missing name.

    notebook: its file name, with or without ".ipynb", in the workbook's folder.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    path = REPO / "notebooks" / f"{Path(notebook).stem}.ipynb"

    def explain(shell, kind, error, trace, tb_offset=None):
        advice = which_cell(path, error.name) if error.name else None
        if advice:
            error.add_note(advice)
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), explain)


def which_cell(path, name: str) -> str | None:
    """One sentence: the first cell of the notebook at ``path`` that makes ``name``; None if none does."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        heading, count = "", 0
        for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                for found in re.findall(r"^#+ +(.+)$", source, re.MULTILINE):
                    heading, count = found.strip(), 0
            elif cell["cell_type"] == "code":
                count += 1
                if name in _names_made(source):
                    first = next(
                        (
                            line.strip()
                            for line in source.splitlines()
                            if line.strip() and not line.startswith("#")
                        ),
                        "",
                    )
                    where = f"under “{heading}”" if heading else "at the top"
                    return (
                        f"`{name}` is made in a cell that has not been run in this kernel: run code cell {count} {where} "
                        f"first (it begins with `{first[:60]}`). Run > Run All Above Selected Cell does all of them."
                    )
    return None


def _names_made(source: str) -> set[str]:
    """Names that a cell's top level assigns, imports or defines."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return set()
    made: set[str] = set()

    class Visit(ast.NodeVisitor):
        def visit_Name(self, node):
            if isinstance(node.ctx, ast.Store):
                made.add(node.id)

        def visit_FunctionDef(self, node):  # not into it: its names are its own
            made.add(node.name)

        visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

        def visit_alias(self, node):
            made.add((node.asname or node.name).split(".")[0])

        def visit_Lambda(self, node):
            pass

        visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda

    Visit().visit(tree)
    return made
