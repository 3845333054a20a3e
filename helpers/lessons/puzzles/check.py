"""Code puzzles: the student writes a function of about five lines, `check(function)` judges it.

    check = Check(store, [BLOCKS_HELD])
    check(blocks_held)

A check draws inputs, asks the function and what it is compared with (vLLM itself where it can), and
shows the first input for which the two differ. A stub that is not filled in, a mistake or an
endless loop is a sentence, never an exception: the notebook goes on.
"""

from __future__ import annotations

import contextlib
import copy
import linecache
import math
import operator
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from helpers.display import card
from helpers.display.as_typed import in_html
from helpers.engine.start import prepare_environment
from helpers.lessons.exercises import hint

PUZZLES = 14  # in the whole workbook
LIMIT_S = 40.0  # for the student's function and what it is compared with


@dataclass(frozen=True)
class Case:
    """An input and what is expected for it.

    given: the arguments by name. run: how the function is called, where it is not simply with the
    arguments; what it returns is compared with `spec`.
    """

    given: dict
    spec: object
    run: Callable | None = None

    def answer(self, function):
        """What the function makes of the input, which it may not change."""
        if self.run is not None:
            return self.run(function)
        return function(*copy.deepcopy(list(self.given.values())))


@dataclass(frozen=True)
class Puzzle:
    """A puzzle: its name is that of the student's function.

    cases: draws the inputs, small ones first. same: whether an answer is right. against: what it
    was compared with. proved: what a right answer shows. where: (file, function) in vLLM 0.32.
    """

    name: str
    title: str
    cases: Callable[[random.Random], Iterator[Case]]
    against: str
    proved: str
    where: tuple[str, str]
    hints: Sequence[str]
    same: Callable[[object, object], bool] = operator.eq


class Check:
    """Checks the functions of one notebook's puzzles and records which are solved in its store."""

    def __init__(self, store, puzzles: Sequence[Puzzle]):
        self.store = store
        self.puzzles = {puzzle.name: puzzle for puzzle in puzzles}
        self.right: list[Callable] = []

    def usable(self, function: Callable, own: Callable) -> Callable:
        """The student's function where it was found right, else the workbook's ``own``."""
        return function if function in self.right else own

    def __call__(self, function: Callable) -> None:
        """Judge the function; its name says which puzzle it solves."""
        name = getattr(function, "__name__", "")
        puzzle = self.puzzles.get(name)
        if puzzle is None:
            names = ", ".join(self.puzzles)
            _show("check", f"no puzzle here is called “{name}”: keep the stub's name ({names}).")
            return
        if "vllm" not in sys.modules and (profile := self.store.profile):
            prepare_environment(profile, {**profile.engine_args, "model": profile.model})
        solved, said = judge(puzzle, function)
        self.right += [function] * solved
        before = self.store.get("puzzle", name) or {}
        if before.get("solved") and not solved:
            said += "\nYou solved it earlier, and that counts."
        elif before.get("solved") != solved:
            about = {"title": puzzle.title, "solved": solved, "of": PUZZLES}
            self.store.save("puzzle", name, {}, source="evidence", **about)
        _show(puzzle.title, said, solved)
        if not solved:
            hint(*puzzle.hints)


def judge(puzzle: Puzzle, function: Callable, seed: int | None = None) -> tuple[bool, str]:
    """(solved, what to tell the student). seed: of the inputs; other ones every time without."""
    count = 0
    cases = puzzle.cases(random.Random(seed))
    for case in cases:
        try:
            with _time_limit():
                yours = case.answer(function)
        except NotImplementedError:
            return False, f"not solved yet: {puzzle.name} raises NotImplementedError."
        except Exception as error:
            return False, _where_it_stopped(function, error)
        if yours is None and case.spec is not None and not count:
            return False, f"not solved yet: {puzzle.name} returns nothing."
        if not _right(puzzle, yours, case.spec):
            return False, _difference(case, yours)
        count += 1
    file, place = puzzle.where
    agrees = f"solved: for {count} inputs the same answers as {puzzle.against}."
    return True, f"{agrees}\n{puzzle.proved}\nIn vLLM 0.32: {place} in {file}."


def _right(puzzle: Puzzle, yours, spec) -> bool:
    try:
        return bool(puzzle.same(yours, spec))
    except Exception:  # another type than expected
        return False


def _difference(case: Case, yours) -> str:
    given = "\n".join(f"{name} = {_short(value)}" for name, value in case.given.items())
    both = f"Yours  {_short(yours)}\nSpec   {_short(case.spec)}"
    return f"not yet: the answers differ for\n{given}\n{both}"


def _short(value) -> str:
    """A value for people; a list of records has a line for each."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = [_short(one) for one in value[:12]]
        more = [f"and {len(value) - 12} more"] if len(value) > 12 else []
        return "\n  ".join(["", *lines, *more])
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_short(one)}" for name, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        text = "[" + ", ".join(map(_short, value)) + "]"
    else:
        text = repr(value)
    return text if len(text) <= 400 else f"{text[:397]}..."


def _where_it_stopped(function: Callable, error: Exception) -> str:
    """One sentence: the line of the student's function that raised, and what."""
    code = getattr(function, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if not own:
        return f"not yet: {function.__name__} stopped with {what}."
    line = own[-1].lineno - code.co_firstlineno + 1
    text = linecache.getline(own[-1].filename, own[-1].lineno).strip()
    return f"not yet: line {line} of {function.__name__}, `{text}`, stopped with {what}."


@contextlib.contextmanager
def _time_limit():
    """Raises TimeoutError in a function that does not come back; others' timers go on."""

    def stop(*_):
        raise TimeoutError(f"no answer in {LIMIT_S:.0f} s; does the loop end?")

    handler = signal.signal(signal.SIGALRM, stop)
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left_s)
        signal.signal(signal.SIGALRM, handler)


def close(yours, spec) -> bool:
    """Equal numbers but for rounding."""
    return math.isclose(yours, spec, rel_tol=1e-6, abs_tol=1e-9)


def _show(title: str, said: str, solved: bool = False) -> None:
    head = f'<span style="color:{card.MUTED}">Puzzle</span> <b>{in_html(title)}</b>'
    first, *lines = (in_html(line) for line in said.split("\n"))
    rest = "".join(_paragraph(line) for line in lines)
    page = card.box(f"{head}: {first}{rest}", card.GREEN if solved else card.BLUE)
    card.show(card.Static(page, f"Puzzle: {title}: {said}"))


def _paragraph(line: str) -> str:
    """A line of a card; values stand under each other."""
    values = line.startswith(("Yours ", "Spec ", " ")) or " = " in line
    style = "font-family:monospace;white-space:pre-wrap" if values else ""
    return f'<div style="{style}">{line}</div>'
