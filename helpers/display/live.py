"""Live views: what an engine, a workload or a server is doing while a cell runs.

In JupyterLab and VS Code the views are widgets that move while the cell runs;
when the cell ends each is replaced by static text or a picture, so that a
saved notebook, an HTML export or a papermill run never shows an empty box.
Without a widget front end only that static form is left. In a terminal a
view is one moving line on stderr, and nothing at all when stderr is a file.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import sys
import threading
import time
from collections.abc import Collection, Iterator

import tqdm

from helpers import gpu_memory
from helpers.display import card
from helpers.display.numbers import number

# ---------------------------------------------------------------- progress


class _Lines:
    """What one cell's engine starts and workloads have come to, line by line, as one output."""

    current: _Lines | None = None
    MOST = 16

    def __init__(self, cell):
        self.cell = cell
        self.place = card.Place()
        self.done: list[str] = []
        self.widgets = card.has_widgets()
        self.passing = None  # a widget: what is being done and leaves no line
        self.mentioned = 0

    @classmethod
    def of_this_cell(cls) -> _Lines:
        cell = card.kernel().get_parent("shell").get("header", {}).get("msg_id")
        if cls.current is None or cls.current.cell != cell:
            cls.current = cls(cell)
        return cls.current

    def mention(self, text: str) -> None:
        """Show ``text`` below the lines so far until the cell ends, or something else is said."""
        import ipywidgets

        self.mentioned += 1
        if self.passing is None:
            widget = ipywidgets.HTML()
            self.show_live(widget)
            self.passing = widget
            if self.mentioned == 1:
                card.kernel().shell.events.register("post_run_cell", self._end_of_cell)
        self.passing.value = html.escape(f"{text} (measurement {self.mentioned} of this cell)")

    def _end_of_cell(self, *_) -> None:
        card.kernel().shell.events.unregister("post_run_cell", self._end_of_cell)
        if self.passing is not None:
            self.passing = None
            self.place.put(self.static())

    def show_live(self, widget) -> None:
        """Show ``widget`` below the lines so far."""
        import ipywidgets

        self.passing = None
        lines = [ipywidgets.HTML(self.static().html)] if self.done else []
        self.place.put(ipywidgets.VBox([*lines, widget]))

    def add(self, line: str) -> None:
        """One more line, and nothing live for now."""
        self.done.append(line)
        self.passing = None
        self.place.put(self.static())

    def static(self) -> card.Static:
        shown = self.done[-self.MOST :]
        if len(self.done) > len(shown):
            shown = [f"... and {len(self.done) - len(shown)} before these", *shown]
        lines = "<br>".join(html.escape(line) for line in shown)
        return card.Static(card.box(lines) if lines else "", "\n".join(shown))


def mention(text: str) -> None:
    """Say what is measured now, in a front end and only while the cell runs."""
    with contextlib.suppress(Exception):  # as `_Line`
        if card.kernel() is not None and (lines := _Lines.of_this_cell()).widgets:
            lines.mention(text)


class _Line:
    """One line with a bar (tqdm's) that moves while work is done, then a line of the cell's list.

    A view must never stop the work that it shows, so nothing here raises.
    """

    def __init__(self, total: int):
        self._bar = self._lines = self._terminal = None
        look = {"total": max(1, total), "bar_format": "{desc} |{bar}|", "leave": False}
        with contextlib.suppress(Exception):
            if card.kernel() is not None:
                self._lines = _Lines.of_this_cell()
                if self._lines.widgets:
                    from tqdm.notebook import tqdm_notebook  # needs ipywidgets

                    self._bar = tqdm_notebook(display=False, **look)
                    self._lines.show_live(self._bar.container)
            elif sys.stderr is not None and sys.stderr.isatty():
                # A copy: the engine's start sends stderr to its log meanwhile.
                self._terminal = os.fdopen(os.dup(2), "w")
                self._bar = tqdm.tqdm(file=self._terminal, dynamic_ncols=True, **look)

    def say(self, text: str, done: int) -> None:
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.n = done
                self._bar.set_description_str(text)

    def close(self, said: str) -> None:
        with contextlib.suppress(Exception):
            if self._bar is not None:
                self._bar.close()
            if self._terminal is not None:
                self._terminal.close()
            if self._lines is not None:
                self._lines.add(said)


class Progress:
    """How far ``total`` requests, or other units, are: ``.update(done, **numbers)``, ``.close()``.

    All views of one cell share one output, so a sweep leaves one short list.
    """

    EVERY_S = 0.2

    def __init__(self, label: str, total: int, unit: str = "requests"):
        self.label, self.total, self.unit = label, total, unit
        self.done, self.numbers = 0, {}
        self.start = time.perf_counter()
        self._last = -1.0
        self._line: _Line | None = _Line(total)

    def update(self, done: int, **numbers) -> None:
        """``done`` of ``total`` so far; numbers are shown by name (``tokens_per_s=812.0``)."""
        self.done, self.numbers = done, numbers
        now = time.perf_counter()
        if self._line and (now - self._last >= self.EVERY_S or done >= self.total):
            self._last = now
            self._line.say(f"{self.label}: {self.status()}", done)

    def status(self) -> str:
        """Such as "12 of 32 requests, 812 tokens/s, 3.00 s left"."""
        said = f"{self.done} of {self.total} {self.unit}{self._numbers()}"
        if 0 < self.done < self.total:
            left_s = (time.perf_counter() - self.start) * (self.total - self.done) / self.done
            said += f", {number(left_s)} s left"
        return said

    def _numbers(self) -> str:
        items = self.numbers.items()
        return "".join(f", {number(value)} {_words(name)}" for name, value in items)

    def close(self) -> None:
        """The work is over (or was stopped): leave one line about it."""
        if self._line is None:
            return
        stopped = "" if self.done >= self.total else f"stopped after {self.done} of "
        took = f"in {number(time.perf_counter() - self.start)} s"
        self._line.close(f"{self.label}: {stopped}{self.total} {self.unit} {took}{self._numbers()}")
        self._line = None

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def through(items: Collection, label: str, unit: str) -> Iterator:
    """The items one after the other, while a line says how many of them are done."""
    with Progress(label, len(items), unit) as view:
        for done, item in enumerate(items, start=1):
            yield item
            view.update(done)


# ---------------------------------------------------------------- engine start


class EngineStart:
    """Around a start: shows phase and seconds, then leaves one line about where the time went.

    phases: pairs (label, pattern): the phase begins when ``pattern`` (a regular
    expression) first appears in the log at ``log_path``. what: "engine" or "server".
    """

    HZ = 10

    def __init__(self, log_path, phases, what: str = "engine"):
        self.log_path, self.what = log_path, what
        self.phases = [(label, re.compile(pattern)) for label, pattern in phases]
        self.begun: list[tuple[str, float]] = [("load vLLM", 0.0)]
        self.seconds: float | None = None  # once it is over
        self._looking = threading.Lock()  # the view's thread and whoever asks for the phase

    def __enter__(self):
        self._start = time.perf_counter()
        self._line = _Line(len(self.phases) + 1)
        self._loop = gpu_memory.Repeated(self._say, self.HZ, "engine start view")
        return self

    def __exit__(self, failed, *_) -> None:
        self._loop.stop()
        with contextlib.suppress(OSError):
            self._look()  # a phase that it finds now begins before the end
        self.seconds = seconds = time.perf_counter() - self._start
        took = self.phases_s().items()
        parts = [f"{label} {number(part)}" for label, part in took if part >= 0.05]
        if failed:
            said = f"The {self.what} did not start: stopped after {seconds:.1f} s"
        else:
            said = f"{self.what.capitalize()} started in {seconds:.1f} s"
        if parts:
            said += f" (seconds by phase, as its log tells: {', '.join(parts)})"
        self._line.close(said)

    def _say(self) -> None:
        with contextlib.suppress(OSError):
            self._look()
        seconds = time.perf_counter() - self._start
        text = f"Starting the {self.what}: {self.begun[-1][0]}, {seconds:.0f} s"
        self._line.say(text, len(self.begun))

    def _look(self) -> None:
        with self._looking, open(self.log_path, errors="replace") as file:
            log = file.read()
            known = {label for label, _ in self.begun}
            for label, pattern in self.phases:
                if label not in known and pattern.search(log):
                    self.begun.append((label, time.perf_counter() - self._start))

    def phase(self) -> str:
        """The phase that the start is in now, by what its log says."""
        self._look()
        return self.begun[-1][0]

    def phases_s(self) -> dict[str, float]:
        """Seconds of each phase that took a millisecond, in their order; complete after the start.

        Shorter ones are two lines of the log that were read together.
        """
        now = time.perf_counter() - self._start if self.seconds is None else self.seconds
        ends = [at for _, at in self.begun[1:]] + [now]
        took = {label: end - at for (label, at), end in zip(self.begun, ends, strict=True)}
        return {label: seconds for label, seconds in took.items() if seconds >= 0.001}


# ---------------------------------------------------------------- numbers over time


class View:
    """Reads numbers again and again while a cell runs, and shows each with its recent past.

    A context manager. With widgets it moves; when it ends, one static picture
    takes its place, with what the block put into ``limits`` (the label of a
    number: the most that it can be, in words) and ``moments`` (time.perf_counter(), in words).
    """

    RECENT = 40  # readings that it shows while it moves

    def __init__(self, title: str, read, hz: float):
        self.title, self.read, self.hz = title, read, hz
        self.readings: list[dict] = []
        self.limits: dict[str, tuple[float, str]] = {}
        self.moments: list[tuple[float, str]] = []
        self._widget = self._place = None

    def __enter__(self):
        self._t0 = time.perf_counter()
        with contextlib.suppress(Exception):  # a view must never stop the work
            if card.kernel() is not None:
                self._place = card.Place()
                if card.has_widgets():
                    import ipywidgets

                    self._widget = ipywidgets.HTML(self._card("..."))
                    self._place.put(self._widget)
        self._loop = gpu_memory.Repeated(self._look, self.hz, self.title)
        return self

    def __exit__(self, *exc) -> None:
        self._loop.stop()
        if self._widget is not None:
            self._widget.close()
        if self._quantities():
            left = self.picture()
        else:
            said = self.stopped_early or "nothing was read"
            page = self._card(f"<div>{html.escape(said)}</div>")
            left = card.Static(page, f"{self.title}: {said}")
        if self._place is None:
            print(left)
        else:
            self._place.put(left)

    @property
    def stopped_early(self) -> str | None:
        """When and why reading failed; None when it did not."""
        return f"Reading {self._loop.failure}" if self._loop.failure else None

    def before(self, moment_s: float) -> dict:
        """The last reading before a time.perf_counter(); empty without one."""
        rows = [row for row in self.readings if row["t_s"] <= moment_s - self._t0]
        return rows[-1] if rows else {}

    def _look(self) -> None:
        found = {k: v for k, v in self.read().items() if isinstance(v, (int, float))}
        self.readings.append({"t_s": time.perf_counter() - self._t0, **found})
        if self._widget is not None:
            self._widget.value = self._card(self.now())

    def _card(self, body: str) -> str:
        return card.box(f"<b>{html.escape(self.title)}</b>{body}")

    def _quantities(self, last: int = 0) -> dict[str, list[tuple[float, float]]]:
        """(seconds, value) of each number by its label with the unit; of the last readings."""
        found: dict[str, list] = {}
        for row in self.readings[-last:]:
            for name, value in row.items():
                if name != "t_s":
                    label, factor = _label(name)
                    found.setdefault(label, []).append((row["t_s"], factor * value))
        return found

    def now(self) -> str:
        """HTML of each number with its recent past, as a widget shows it meanwhile."""
        rows = ""
        for label, points in self._quantities(self.RECENT).items():
            recent = [value for _, value in points]
            top = max(recent) or 1
            bars = "".join("▁▂▃▄▅▆▇█"[round(7 * max(0, value) / top)] for value in recent)
            said = f"<b>{number(recent[-1])}</b> {html.escape(label)}"
            rows += f'<div>{said} <span style="color:{card.MUTED}">{bars}</span></div>'
        return rows

    def picture(self):
        """What is left when the view ends."""
        from helpers.display import figures  # matplotlib: not for those who only start an engine

        found = self._quantities()
        size = (7.5, 0.9 + 1.25 * len(found))
        fig, axes = figures.figure(
            self.title, rows=len(found), size=size, sharex=True, squeeze=False
        )
        rows = []
        for index, (ax, (label, points)) in enumerate(zip(axes[:, 0], found.items(), strict=True)):
            times, values = zip(*points, strict=True)
            ax.plot(times, values, color=figures.COLORS[index % 4], drawstyle="steps-post")
            ax.set_ylabel(label, rotation=0, ha="right", va="center")
            ax.set_ylim(0, max(values) * 1.15 or 1)
            if label in self.limits:
                most, words = self.limits[label]
                ax.axhline(most, color=figures.GREY, linestyle=":", label=words)
            for at, words in self.moments:
                ax.axvline(at - self._t0, color=figures.BLACK, lw=1.2, ls="--", label=words)
            mean = sum(values) / len(values)
            rows.append({"number": label, "most": max(values), "mean": mean, "last": values[-1]})
        axes[-1, 0].set_xlabel("seconds")
        named = {}  # each mark once, below all panels
        for ax in axes[:, 0]:
            marks, words = ax.get_legend_handles_labels()
            named |= dict(zip(words, marks, strict=True))
        if named:
            fig.legend(named.values(), named.keys(), loc="outside lower center", ncols=2)
        said = "; ".join(f"{row['number']}: at most {number(row['most'])}" for row in rows)
        said += f". {len(self.readings)} readings in {number(self.readings[-1]['t_s'])} s."
        if self.stopped_early:
            said += f" {self.stopped_early}."
        return figures.Picture(fig, said, rows, "live_view")


def dashboard(read, hz: float = 2.0) -> View:
    """What a server does while the requests of a ``with`` block run.

    read() -> dict of numbers, asked ``hz`` times a second in a thread, such as
    {"running": 3, "waiting": 0, "kv_cache_usage": 0.12}
    (shares from 0 to 1 are shown in percent). Five failures in a row end the
    view, and it says why.
    """
    return View("The server, live", read, hz)


def _label(name: str) -> tuple[str, float]:
    """("kv cache usage (%)", 100) of "kv_cache_usage": how a number is called and scaled."""
    if name.endswith("_gib"):
        return f"{_words(name.removesuffix('_gib'))} (GiB)", 1
    if name.endswith(("_usage", "_rate", "_share")):
        return f"{_words(name)} (%)", 100
    return _words(name), 1


def _words(name: str) -> str:
    """tokens_per_s -> tokens/s; kv_cache_usage -> kv cache usage."""
    return name.replace("_per_", "/").replace("_", " ")
