"""Live views: what an engine, a workload or a server is doing while a cell runs.

In JupyterLab and VS Code the views are ipywidgets that move while the cell
runs; when the cell ends each is replaced by a static text or picture, so that
a saved notebook, an HTML export or a papermill run never shows an empty box.
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

_INK, _PAPER, _LINE, _GREY = "#1F1F1F", "#FFFFFF", "#D0D0D0", "#5F5F5F"
CARD = (
    f"display:inline-block;max-width:100%;margin:2px 0;padding:4px 10px;background:{_PAPER};color:{_INK};"
    f"border:1px solid {_LINE};border-radius:6px;box-sizing:border-box;font:13px/1.5 sans-serif"
)


def has_widgets() -> bool:
    """True when the cell that runs now was sent by a front end that draws widgets.

    JupyterLab, Notebook 7 and VS Code put the cell's id into the request's
    metadata; nbclient (papermill, nbconvert) and consoles do not, and nobody
    would see their widgets. ``WORKBOOK_WIDGETS=1`` or ``0`` overrules this.
    """
    wanted = os.environ.get("WORKBOOK_WIDGETS")
    if wanted in ("0", "1"):
        return wanted == "1"
    kernel = _kernel()
    if kernel is None:
        return False
    if "google.colab" in sys.modules:
        return True
    with contextlib.suppress(Exception):  # a kernel of another make: no widgets
        return bool((kernel.get_parent("shell").get("metadata") or {}).get("cellId"))
    return False


def _kernel():
    """The ipykernel this process is, or None (a script, a terminal's IPython)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None)


class Static:
    """Output that every front end shows: HTML, and text for a terminal."""

    def __init__(self, html_: str, text: str):
        self.html, self.text = html_, text

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


def show(static: Static) -> None:
    """Display ``static`` in a notebook; print its text anywhere else."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(static.text)
    else:
        ipython.display.display(static)


class _Place:
    """One output of the running cell that changes: a widget while live, static at the end."""

    def __init__(self):
        self.handle = None

    def put(self, what) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(what, display_id=True)
        else:
            self.handle.update(what)


# ---------------------------------------------------------------- progress


class _Board:
    """All the progress lines of one cell, as one output."""

    current: "_Board | None" = None
    LINES = 12

    def __init__(self, cell):
        self.cell = cell
        self.place = _Place()
        self.done: list[str] = []
        self.widgets = has_widgets()

    @classmethod
    def of_this_cell(cls) -> "_Board":
        cell = _kernel().get_parent("shell").get("header", {}).get("msg_id")
        if cls.current is None or cls.current.cell != cell:
            cls.current = cls(cell)
        return cls.current

    def static(self) -> Static:
        shown = self.done[-self.LINES :]
        if len(self.done) > len(shown):
            shown = [f"... and {len(self.done) - len(shown)} before these", *shown]
        lines = "<br>".join(html.escape(line) for line in shown)
        return Static(f'<div style="{CARD}">{lines}</div>', "\n".join(shown))


class Progress:
    """How far a piece of work is. Made by ``progress``."""

    EVERY_S = 0.2

    def __init__(self, label: str, total: int, unit: str = "requests"):
        self.label, self.total, self.unit = label, total, unit
        self.done, self.numbers = 0, {}
        self.start = time.perf_counter()
        self._last = -1.0
        self._closed = False
        self._bar = self._text = self._board = None
        self._line = _kernel() is None and sys.stderr is not None and sys.stderr.isatty()
        if _kernel() is not None:
            with contextlib.suppress(Exception):  # a view must never stop a measurement
                self._board = _Board.of_this_cell()
                if self._board.widgets:
                    self._open_widget()

    def _open_widget(self) -> None:
        import ipywidgets

        self._bar = ipywidgets.IntProgress(
            value=0, max=max(1, self.total), description=self.label, style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="420px"),
        )  # fmt: skip
        self._text = ipywidgets.Label()
        rows = [ipywidgets.HBox([self._bar, self._text])]
        if self._board.done:
            rows.insert(0, ipywidgets.HTML(self._board.static().html))
        self._board.place.put(ipywidgets.VBox(rows))

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def update(self, done: int, **numbers) -> None:
        """``done`` of ``total`` so far; numbers are shown by name (``tokens_per_s=812.0``)."""
        self.done, self.numbers = done, numbers
        if self._closed or (self.seconds - self._last < self.EVERY_S and done < self.total):
            return
        self._last = self.seconds
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.value = done
                self._text.value = self.status()
        elif self._line:
            print(f"\r{self.label}: {self.status()}"[:118].ljust(118), end="", file=sys.stderr, flush=True)

    def status(self) -> str:
        """ "12 of 32 requests, 812 tokens/s, 3 s left" """
        parts = [f"{self.done} of {self.total} {self.unit}"]
        parts += [f"{_short(value)} {_words(name)}" for name, value in self.numbers.items()]
        if 0 < self.done < self.total:
            parts.append(f"{_short(self.seconds * (self.total - self.done) / self.done)} s left")
        return ", ".join(parts)

    def close(self, note: str | None = None) -> None:
        """The work is over (or was stopped): leave one line about it."""
        if self._closed:
            return
        self._closed = True
        if self._line:
            print("\r".ljust(119) + "\r", end="", file=sys.stderr, flush=True)
        if self._board is None:
            return
        stopped = "" if self.done >= self.total else f"stopped after {self.done} of "
        numbers = "".join(f", {_short(value)} {_words(name)}" for name, value in self.numbers.items())
        said = f"{self.label}: {stopped}{self.total} {self.unit} in {_short(self.seconds)} s{numbers}"
        self._board.done.append(said + (f" ({note})" if note else ""))
        with contextlib.suppress(Exception):
            if self._bar is not None:
                for widget in (self._bar, self._text):
                    widget.close()
            self._board.place.put(self._board.static())

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def progress(label: str, total: int, unit: str = "requests") -> Progress:
    """A progress view of ``total`` things: ``.update(done, **numbers)``, ``.close()``.

    All views of one cell share one output, so a sweep leaves one short list.
    """
    return Progress(label, total, unit)


# ---------------------------------------------------------------- engine start


@contextlib.contextmanager
def engine_start(log_path, phases):
    """Shows phase and seconds while an engine starts; leaves one line about where the time went.

    phases: pairs (label, pattern): the phase begins when ``pattern`` (a regular
    expression) first appears in the log at ``log_path``.
    """
    view = _EngineStart(log_path, phases)
    try:
        yield view
    except BaseException:
        view.close(failed=True)
        raise
    view.close()


class _EngineStart:
    EVERY_S = 0.25

    def __init__(self, log_path, phases):
        self.log_path, self.phases = log_path, [(label, re.compile(pattern)) for label, pattern in phases]
        self.begun: list[tuple[str, float]] = [("load vLLM", 0.0)]
        self.start = time.perf_counter()
        self._widget = self._terminal = self._place = None
        self._end = threading.Event()
        with contextlib.suppress(Exception):
            if _kernel() is not None:
                self._place = _Place()
                if has_widgets():
                    import ipywidgets

                    self._widget = ipywidgets.HTML(self._now())
                    self._place.put(self._widget)
            elif sys.stderr is not None and sys.stderr.isatty():
                # A copy: the engine's start sends stderr to its log meanwhile.
                self._terminal = os.fdopen(os.dup(2), "w")
        self._thread = threading.Thread(target=self._loop, name="engine start view", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._end.wait(self.EVERY_S):
            with contextlib.suppress(Exception):
                self._look()
                if self._widget is not None:
                    self._widget.value = self._now()
                elif self._terminal is not None:
                    print("\r" + self._line()[:100].ljust(100), end="", file=self._terminal, flush=True)

    def _look(self) -> None:
        with open(self.log_path, errors="replace") as file:
            log = file.read()
        known = {label for label, _ in self.begun}
        for label, pattern in self.phases:
            if label not in known and pattern.search(log):
                self.begun.append((label, time.perf_counter() - self.start))

    def _line(self) -> str:
        return f"Starting the engine: {self.begun[-1][0]}, {time.perf_counter() - self.start:.0f} s"

    def _now(self) -> str:
        return f'<div style="{CARD}">{html.escape(self._line())} ...</div>'

    def close(self, failed: bool = False) -> None:
        seconds = time.perf_counter() - self.start
        self._end.set()
        self._thread.join(timeout=2)
        with contextlib.suppress(Exception):
            self._look()
        ends = [at for _, at in self.begun[1:]] + [seconds]
        parts = [f"{label} {_short(end - at)}" for (label, at), end in zip(self.begun, ends) if end - at >= 0.05]
        said = f"The engine did not start: stopped after {seconds:.1f} s" if failed else f"Engine started in {seconds:.1f} s"
        said += f" (seconds by phase, as its log tells: {', '.join(parts)})" if parts else ""
        with contextlib.suppress(Exception):
            if self._terminal is not None:
                print("\r" + " " * 100 + "\r", end="", file=self._terminal, flush=True)
                self._terminal.close()
            if self._widget is not None:
                self._widget.close()
            if self._place is not None:
                self._place.put(Static(f'<div style="{CARD}">{html.escape(said)}</div>', said))


def _short(value) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    if value != value or value in (float("inf"), float("-inf")):
        return "?"
    digits = 0 if isinstance(value, int) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _words(name: str) -> str:
    """tokens_per_s -> tokens/s; kv_cache_usage -> kv cache usage."""
    return name.replace("_per_", "/").replace("_", " ")
