"""How far a run or a class is: one line, written anew on a terminal; elsewhere a new line each."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from helpers.run.job import last_started
from helpers.run.notebook_file import executed
from helpers.run.summary import duration


class Line:
    """The line, on stdout or another stream."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()

    def say(self, text: str, stays: bool = False) -> None:
        """Show it; one that stays is not written over."""
        end = "\n"
        if self.live:
            width = max(20, os.get_terminal_size(self.stream.fileno()).columns - 1)
            text = "\r\x1b[K" + (text if stays else " ".join(text.split())[:width])
            end = "\n" * stays
        print(text, end=end, file=self.stream, flush=True)


class Progress:
    """Which notebook, which cell, how long; off a terminal every half minute."""

    def __init__(self, stream=None):
        self.line, self.began = Line(stream), time.monotonic()

    def begin(self, label: str, output: Path) -> None:
        """A notebook begins; `output` is where papermill notes how far it is."""
        self.label, self.output, self.start = label, output, time.monotonic()
        self._draw()

    def watch(self, pid: int) -> None:
        """Called about ten times a second while the notebook runs."""
        if time.monotonic() - self.drawn >= (0.5 if self.line.live else 30.0):
            self._draw()

    def done(self, verdict: str) -> None:
        """The notebook has ended."""
        self._draw(f"  {verdict}")

    def _draw(self, verdict: str = "") -> None:
        self.drawn = time.monotonic()
        cells = executed(self.output)
        cell = last_started(cells)
        where = f"  cell {cell.k}/{len(cells)}" if cell else ""
        spent = f"{duration(self.drawn - self.start)}  (run {duration(self.drawn - self.began)})"
        self.line.say(f"{self.label}{where}  {spent}{verdict}", stays=bool(verdict))
