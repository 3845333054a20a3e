"""Forms: fields whose text stays in the browser until this kernel has taken it.

    one = Field("insight_1", "What did you learn?", take)
    forms.show(store, "In your words", [one], echo)

The page's side is form.js: it keeps a draft of every field, sends what was typed when typing
pauses (a choice, Enter and leaving the field: at once), and says so when no kernel answers. This
side takes a value, saves it and replies. Below the form stands what is saved, as plain HTML: a
saved or exported notebook keeps that, and in the form's place its question and a line that says how
to edit again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from helpers.display import card
from helpers.display.as_typed import in_html

HERE = Path(__file__).parent


@dataclass
class Reply:
    """What a field says after the kernel looked at its value.

    taken: it is saved, so the browser may forget its draft. value: written into the field. actions:
    buttons below it, {name: label}; pressed, the name comes to the field's `act`.
    """

    said: str
    taken: bool = True
    value: object = None
    actions: dict[str, str] = field(default_factory=dict)


@dataclass
class Field:
    """One question of a form.

    take(value) saves and returns what to say; act(action) answers a button. kind: "number" (text
    with a unit), "text", "tick", "choice" or "slider". deliberate: sent on Enter or on leaving it
    only, because half an answer would be judged. group: fields of a group fold together.
    """

    key: str
    question: str
    take: Callable[[object], Reply]
    kind: str = "text"
    value: object = ""
    first: Reply = field(default_factory=lambda: Reply(""))
    act: Callable[[str], Reply] | None = None
    unit: str = ""
    hint: str = ""
    lines: int = 0
    options: tuple[str, ...] = ()
    deliberate: bool = False
    group: str = ""
    span: tuple[float, float, float] = (0.0, 1.0, 0.01)  # of a slider: min, max, step

    def drawn(self) -> dict:
        """What form.js needs to draw it."""
        names = ("key", "question", "kind", "value", "unit", "hint", "lines", "deliberate", "group")
        least, most, step = self.span
        first = {"said": self.first.said, "actions": self.first.actions}
        span = {"min": least, "max": most, "step": step, "options": list(self.options)}
        return {name: getattr(self, name) for name in names} | first | span

    def answer(self, message: dict) -> dict:
        """The reply to what the page sent; never raises: nobody else would show it."""
        value, action = message["value"], message.get("action")
        try:
            reply = self.act(action) if action else self.take(value)
        except Exception as error:
            reply = Reply(f"Not saved: {error}", taken=False)
        sent = {"key": self.key, "id": message["id"], "of": value, "said": reply.said}
        sent |= {"taken": reply.taken, "actions": reply.actions}
        return sent if reply.value is None else sent | {"value": reply.value}


def show(
    store, title: str, fields: list[Field], echo: Callable[[], object], drafts_of: str = ""
) -> None:
    """Show the form and, below it, echo(): what is saved, anew after each change.

    A browser keeps the drafts of each results folder and notebook apart, and within them those of
    each `drafts_of`.
    """
    from IPython.display import display

    place = " ".join(filter(None, (str(store.directory), store.notebook, drafts_of)))
    form = _widget_class()(place=place, title=title, fields=[one.drawn() for one in fields])
    below, by_key = card.Place(), {one.key: one for one in fields}

    def received(_, message: dict, buffers) -> None:
        if message.get("ping"):
            form.send({"pong": True})
        elif message.get("key") in by_key:
            form.send(by_key[message["key"]].answer(message))
            below.put(echo())

    form.on_msg(received)
    display(form)
    below.put(echo())


@cache
def _widget_class():
    import anywidget  # here: runs without a front end do without it
    from traitlets import List, Unicode

    class Form(anywidget.AnyWidget):
        _esm = HERE / "form.js"
        _css = HERE / "form.css"
        place = Unicode().tag(sync=True)
        title = Unicode().tag(sync=True)
        fields = List().tag(sync=True)

        def _repr_mimebundle_(self, **options):
            data, about = super()._repr_mimebundle_(**options)
            questions = [one["question"] for one in self.fields] if len(self.fields) < 4 else []
            head = "".join(f"<b>{in_html(question)}</b><br>" for question in questions)
            said = f"{in_html(self.title)} {head}<small>Run this cell to edit again.</small>"
            return data | {"text/html": card.box(said)}, about

    return Form
