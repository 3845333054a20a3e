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

from helpers.display import card
from helpers.display.numbers import number

# ---------------------------------------------------------------- progress


class _Board:
    """What one cell's engine starts and workloads have come to, line by line, as one output."""

    current: _Board | None = None
    LINES = 16

    def __init__(self, cell):
        self.cell = cell
        self.place = card.Place()
        self.done: list[str] = []
        self.widgets = card.has_widgets()

    @classmethod
    def of_this_cell(cls) -> _Board:
        cell = card.kernel().get_parent("shell").get("header", {}).get("msg_id")
        if cls.current is None or cls.current.cell != cell:
            cls.current = cls(cell)
        return cls.current

    def live(self, *widgets) -> None:
        """Show these widgets below the lines so far."""
        import ipywidgets

        lines = [ipywidgets.HTML(self.static().html)] if self.done else []
        self.place.put(ipywidgets.VBox([*lines, *widgets]))

    def finish(self, line: str) -> None:
        """One more line, and nothing live for now."""
        self.done.append(line)
        self.place.put(self.static())

    def static(self) -> card.Static:
        shown = self.done[-self.LINES :]
        if len(self.done) > len(shown):
            shown = [f"... and {len(self.done) - len(shown)} before these", *shown]
        lines = "<br>".join(html.escape(line) for line in shown)
        return card.Static(f'<div style="{card.CARD}">{lines}</div>', "\n".join(shown))


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
        self._line = card.kernel() is None and sys.stderr is not None and sys.stderr.isatty()
        if card.kernel() is not None:
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
        self._board.live(ipywidgets.HBox([self._bar, self._text]))

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
            print(
                f"\r{self.label}: {self.status()}"[:118].ljust(118),
                end="",
                file=sys.stderr,
                flush=True,
            )

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
        numbers = "".join(
            f", {_short(value)} {_words(name)}" for name, value in self.numbers.items()
        )
        said = (
            f"{self.label}: {stopped}{self.total} {self.unit} in {_short(self.seconds)} s{numbers}"
        )
        with contextlib.suppress(Exception):
            if self._bar is not None:
                for widget in (self._bar, self._text):
                    widget.close()
            self._board.finish(said + (f" ({note})" if note else ""))

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
def engine_start(log_path, phases, what="engine"):
    """Shows phase and seconds while an engine starts; leaves one line about where the time went.

    phases: pairs (label, pattern): the phase begins when ``pattern`` (a regular
    expression) first appears in the log at ``log_path``. what: "engine" or "server".
    """
    view = _EngineStart(log_path, phases, what)
    try:
        yield view
    except BaseException:
        view.close(failed=True)
        raise
    view.close()


class _EngineStart:
    EVERY_S = 0.1

    def __init__(self, log_path, phases, what="engine"):
        self.what = what
        self.log_path, self.phases = (
            log_path,
            [(label, re.compile(pattern)) for label, pattern in phases],
        )
        self.begun: list[tuple[str, float]] = [("load vLLM", 0.0)]
        self.start = time.perf_counter()
        self._widget = self._terminal = self._board = None
        self._end = threading.Event()
        self._looking = threading.Lock()  # the view's thread and whoever asks for the phase
        with contextlib.suppress(Exception):
            if card.kernel() is not None:
                self._board = _Board.of_this_cell()
                if self._board.widgets:
                    import ipywidgets

                    self._widget = ipywidgets.HTML(self._now())
                    self._board.live(self._widget)
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
                    print(
                        "\r" + self._line()[:100].ljust(100),
                        end="",
                        file=self._terminal,
                        flush=True,
                    )

    def _look(self) -> None:
        with self._looking, open(self.log_path, errors="replace") as file:
            log = file.read()
            known = {label for label, _ in self.begun}
            for label, pattern in self.phases:
                if label not in known and pattern.search(log):
                    self.begun.append((label, time.perf_counter() - self.start))

    def phase(self) -> str:
        """The phase that the start is in now, by what its log says."""
        self._look()
        return self.begun[-1][0]

    def _line(self) -> str:
        return f"Starting the {self.what}: {self.begun[-1][0]}, {time.perf_counter() - self.start:.0f} s"

    def _now(self) -> str:
        return f'<div style="{card.CARD}">{html.escape(self._line())} ...</div>'

    def phases_s(self) -> dict[str, float]:
        """Seconds that each phase took, in their order; complete once the view is closed."""
        ends = [at for _, at in self.begun[1:]] + [
            getattr(self, "seconds", time.perf_counter() - self.start)
        ]
        return {label: end - at for (label, at), end in zip(self.begun, ends)}

    def close(self, failed: bool = False) -> None:
        seconds = time.perf_counter() - self.start
        self._end.set()
        self._thread.join(timeout=2)
        with contextlib.suppress(Exception):
            self._look()
        self.seconds = seconds
        parts = [
            f"{label} {_short(took)}" for label, took in self.phases_s().items() if took >= 0.05
        ]
        said = (
            f"The {self.what} did not start: stopped after {seconds:.1f} s"
            if failed
            else f"{self.what.capitalize()} started in {seconds:.1f} s"
        )
        said += f" (seconds by phase, as its log tells: {', '.join(parts)})" if parts else ""
        with contextlib.suppress(Exception):
            if self._terminal is not None:
                print("\r" + " " * 100 + "\r", end="", file=self._terminal, flush=True)
                self._terminal.close()
            if self._widget is not None:
                self._widget.close()
            if self._board is not None:
                self._board.finish(said)


# ---------------------------------------------------------------- numbers over time


class _Watch:
    """Reads numbers again and again while a cell runs, and shows each with its recent past.

    A context manager, or ``start()`` and ``stop()`` in two cells. With widgets
    it moves; when it ends, one static picture takes its place.
    """

    KEPT = 2_000  # readings; older ones are thinned out
    title = "Live view"

    def __init__(self, read, hz: float = 2.0):
        if not 0 < hz <= 20:
            raise ValueError(f"hz is {hz}; give readings per second, more than 0 and at most 20.")
        self.read, self.hz = read, hz
        self.readings: list[dict] = []
        self.stopped_early: str | None = None
        self._end = threading.Event()
        self._thread = self._widget = self._place = None
        self._t0 = 0.0

    def start(self):
        if self._thread is not None:
            raise RuntimeError("This view has been started before: make a new one.")
        self._t0 = time.perf_counter()
        with contextlib.suppress(Exception):  # a view must never stop the work
            if card.kernel() is not None:
                self._place = card.Place()
                if card.has_widgets():
                    import ipywidgets

                    self._widget = ipywidgets.HTML(self._card("..."))
                    self._place.put(self._widget)
        self._thread = threading.Thread(target=self._loop, name=self.title, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> list[dict]:
        """End the view; the static picture is left. Returns the readings. Twice does nothing more."""
        if self._thread is not None and not self._end.is_set():
            self._end.set()
            self._thread.join(timeout=10)
            if self._widget is not None:
                self._widget.close()
            self._leave()
        return self.readings

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()

    def _loop(self) -> None:
        failures = 0
        while True:
            try:
                found = {
                    name: value
                    for name, value in self.read().items()
                    if isinstance(value, (int, float))
                }
                self.readings.append({"t_s": time.perf_counter() - self._t0, **found})
                failures = 0
            except Exception as error:
                failures += 1
                if failures >= 5:
                    after = time.perf_counter() - self._t0
                    self.stopped_early = (
                        f"Reading stopped after {after:.0f} s: {type(error).__name__}: {error}"
                    )
                    self._draw()
                    return
            if len(self.readings) > self.KEPT:
                del self.readings[1 : self.KEPT // 2 : 2]
            self._draw()
            if self._end.wait(1 / self.hz):
                return

    def _draw(self) -> None:
        if self._widget is not None:
            with contextlib.suppress(Exception):
                self._widget.value = self._card(self._tiles())

    def _card(self, body: str) -> str:
        note = f"<div>{html.escape(self.stopped_early)}</div>" if self.stopped_early else ""
        return f'<div style="{card.CARD}"><b>{html.escape(self.title)}</b>{body}{note}</div>'

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.readings for name in row if name != "t_s"))

    def _tiles(self) -> str:
        recent = self.readings[-240:]
        tiles = ""
        for index, name in enumerate(self.names()):
            points = [(row["t_s"], row[name]) for row in recent if name in row]
            label, shown, _ = _quantity(name, points[-1][1]) if points else (name, "", 1)
            tiles += (
                f'<div style="display:inline-block;margin:2px 14px 2px 0;vertical-align:top"><div style="color:{card.MUTED}">'
                f'{html.escape(label)}</div><div style="font-size:18px">{shown}</div>{_spark(points, index)}</div>'
            )
        return f"<div>{tiles}</div>"

    def _leave(self) -> None:
        """The static form: a picture in a notebook, its text in a terminal."""
        if not self.readings or not self.names():
            said = self.stopped_early or "nothing was read"
            static = card.Static(
                self._card(f"<div>{html.escape(said)}</div>"), f"{self.title}: {said}"
            )
        else:
            static = self._picture()
        if self._place is None:
            print(static)
        else:
            self._place.put(static)

    def _picture(self):
        from helpers.display import figures  # matplotlib: not for those who only start an engine

        names = self.names()
        fig, axes = figures.figure(
            self.title, rows=len(names), size=(7.5, 0.9 + 1.25 * len(names)), sharex=True
        )
        axes = [axes] if len(names) == 1 else list(axes)
        rows = []
        for index, (ax, name) in enumerate(zip(axes, names)):
            points = [(row["t_s"], row[name]) for row in self.readings if name in row]
            label, _, factor = _quantity(name, points[-1][1])
            values = [value * factor for _, value in points]
            ax.plot(
                [t for t, _ in points],
                values,
                color=figures.COLORS[index % 4],
                drawstyle="steps-post",
            )
            ax.set_ylabel(label, rotation=0, ha="right", va="center")
            ax.set_ylim(0, max(values) * 1.15 or 1)
            rows.append(
                {
                    "number": label,
                    "most": max(values),
                    "mean": sum(values) / len(values),
                    "last": values[-1],
                }
            )
        axes[-1].set_xlabel("seconds")
        said = "; ".join(f"{row['number']}: at most {number(row['most'])}" for row in rows)
        said += f". {len(self.readings)} readings in {_short(self.readings[-1]['t_s'])} s."
        if self.stopped_early:
            said += f" {self.stopped_early}."
        return figures.Picture(fig, said, rows, "live_view")


class Dashboard(_Watch):
    """A server's numbers. Made by ``dashboard``."""

    title = "The server, live"


def dashboard(read, hz: float = 2.0) -> Dashboard:
    """What a server does while requests run: ``with dashboard(server_lab.watch(server)): ...``

    read() -> dict of numbers, asked ``hz`` times a second in a thread, such as
    {"running": 3, "waiting": 0, "kv_cache_usage": 0.12, "prefix_hits": 0.4}
    (shares from 0 to 1 are shown in percent). Five failures in a row end the
    view, and it says why.
    """
    return Dashboard(read, hz)


class MemoryView(_Watch):
    """Memory and KV-cache use. Made by ``memory``; ``.sampler`` has every sample."""

    title = "Memory, live"

    def __init__(self, engine=None, pids=None, hz: float = 10.0):
        from helpers.gpu_memory import MemorySampler

        self.sampler = MemorySampler(pids=pids, hz=hz)
        self.kv: list[
            dict
        ] = []  # the rows of a Measurement's timeline that the plot needs, on the sampler's clock

        def read() -> dict:
            found = {}
            if self.sampler.samples:
                found["memory_gib"] = self.sampler.used(self.sampler.samples[-1])
            # An engine may be closed while the view goes on: its memory is seen to come back.
            if (
                engine is not None
                and engine.is_open
                and (share := engine.kv_cache_usage) is not None
            ):
                found["kv_cache_usage"] = share
                self.kv.append({"t_s": self.sampler.elapsed_s, "kv_cache_usage": share})
            return found

        super().__init__(read, hz=min(hz, 10.0))

    def start(self):
        self.sampler.start()
        return super().start()

    def stop(self) -> list[dict]:
        self.sampler.stop()
        return super().stop()

    def mark(self, label: str, at_s: float | None = None) -> None:
        """A phase named ``label`` begins now: see MemorySampler.mark."""
        self.sampler.mark(label, at_s)

    def summary(self) -> dict:
        """Peak and sustained use: see MemorySampler.summary."""
        return self.sampler.summary()

    def _picture(self):
        from helpers.display import figures
        from helpers.display import memory_plot as plot

        fig, said, rows = plot.draw(
            self.sampler, [(0.0, self.kv)], title="Memory while the cell ran"
        )
        return figures.Picture(fig, said, rows, "memory_live")


def memory(engine=None, pids=None, hz: float = 10.0) -> MemoryView:
    """Memory, and an engine's KV-cache use, while a cell runs: ``with memory(engine) as view: ...``

    The KV-cache use is the engine's own number after its last step (``Engine.kv_cache_usage``), read ``hz`` times a
    second; without an engine, or from one with ``disable_log_stats=True``, the view shows memory alone.
    ``view.mark("prefill")`` names phases; ``view.summary()`` has peak and sustained use.
    """
    return MemoryView(engine, pids, hz)


def _quantity(name: str, value: float) -> tuple[str, str, float]:
    """(label with unit, value as text, factor for drawing) of a number by its name."""
    words = _words(name)
    if name.endswith("_gib"):
        return f"{words[:-4]} (GiB)", f"{value:.2f}", 1
    if name.endswith(("_usage", "_rate", "_share", "prefix_hits")):
        return f"{words} (%)", f"{100 * value:.0f} %", 100
    if "_per_s" in name:
        return words, _short(float(value)), 1
    return words, _short(value), 1


def _spark(
    points: list[tuple[float, float]], index: int, width: int = 150, height: int = 34
) -> str:
    from helpers.display.figures import COLORS

    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    top = max(value for _, value in points) or 1
    line = " ".join(
        f"{width * (t - first) / (last - first or 1):.1f},{height - 2 - (height - 4) * value / top:.1f}"
        for t, value in points
    )
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="recent values"><polyline points="{line}" '
        f'fill="none" stroke="{COLORS[index % 4]}" stroke-width="1.6"/></svg>'
    )


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
