"""Forms: what is typed is saved when typing pauses, at the latest before the next cell runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SAVE_AFTER_S = 0.7  # of no typing

# Saves that wait for the end of typing, by the id of their control: (timer, save).
_pending: dict[int, tuple] = {}


def control(
    question: str, value, *, unit: str = "", lines: int = 0, options=(), tick: bool = False
):
    """An ipywidget for one answer: a tick, one of ``options``, ``lines`` of text, else a number.

    question: what a screen reader says. value: what it holds at first.
    """
    import ipywidgets as w

    wide = w.Layout(width="560px", max_width="98%")
    if tick:
        made = w.Checkbox(value=value, description="I have done this", indent=False, layout=wide)
    elif options:
        chosen = value if value in options else None
        made = w.RadioButtons(options=options, value=chosen, layout=w.Layout(width="auto"))
    elif lines:
        hint = "Type here; it is saved as you type."
        made = w.Textarea(value=value, rows=lines + 1, placeholder=hint, layout=wide)
    else:
        layout = w.Layout(width="220px")
        made = w.Text(value=value, placeholder=f"a number ({unit})", layout=layout)
    made.tooltip = question
    return made


def row(made, unit: str = ""):
    """The control with its unit beside it."""
    import ipywidgets as w

    return w.HBox([made, w.Label(unit)] if unit else [made])


def on_change(made, take: Callable[[object], str], show: Callable[[str], None]) -> None:
    """When the control's value changes, show(take(value)): take saves and says what holds now.

    What is typed counts when typing pauses or the next cell runs; a choice counts at once. Always
    in the kernel's main thread, which is where a front end's messages arrive.
    """

    def save() -> None:
        _pending.pop(id(made), None)
        try:
            said = take(made.value)
        except Exception as error:  # the student must see it: nobody else is there to catch it
            said = f"Not saved: {error}"
        show(said)

    def changed(_) -> None:
        if not getattr(made, "continuous_update", False):  # a choice, or typed to its end
            save()
            return
        if id(made) in _pending:
            _pending[id(made)][0].cancel()
        try:
            timer = asyncio.get_running_loop().call_later(SAVE_AFTER_S, save)
        except RuntimeError:  # nothing would call later
            save()
        else:
            _pending[id(made)] = timer, save

    made.observe(changed, names="value")
    _flush_before_each_cell()


def flush(*_) -> None:
    """Save at once what was typed less than SAVE_AFTER_S ago."""
    for timer, save in list(_pending.values()):
        timer.cancel()
        save()


def _flush_before_each_cell() -> None:
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and flush not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", flush)
