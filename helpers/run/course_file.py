r"""What is asked for: course.yaml and the command line, checked before anything runs.

course.yaml (every key may be left out):

    notebooks: ["01", "02"]
    model: Qwen/Qwen2.5-1.5B-Instruct     # also: profile, load_format
    sizes: {requests: 64}                 # any parameter of the notebooks, in any case
    parameters: {SEED: 7}
    cell_timeout: 900                     # seconds
    timeout: 3600
    rubric: {notebooks: 20, puzzles: 30}  # of a class; these three see classroom/grading.py
    deadline: 2026-12-04 23:59
    names: (?P<name>.+)_(?P<id>\d+)
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from helpers import REPO
from helpers.run import notebook_file

NOTEBOOKS = REPO / "notebooks"
OURS = {"RESULTS_DIR"}  # set by the runner
KEYS = {
    "notebooks": list,
    "parameters": dict,
    "sizes": dict,
    "profile": str,
    "model": str,
    "load_format": str,
    "cell_timeout": (int, float),
    "timeout": (int, float),
    "rubric": dict,
    "deadline": (str, date),
    "names": str,
}


class UsageError(Exception):
    """The command cannot be carried out as given; the text says what to give."""


@dataclass
class Course:
    """What a course file asks for. Times in seconds; None where it says nothing."""

    notebooks: list[str] | None = None
    parameters: dict = field(default_factory=dict)
    cell_timeout: float | None = None
    timeout: float | None = None
    rubric: dict[str, float] = field(default_factory=dict)
    deadline: datetime | None = None
    names: re.Pattern | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that a run and a class have in common."""
    which = "which, by number or name, separated by commas (default: all)"
    parser.add_argument("--notebooks", help=which)
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a notebook parameter; may be given again",
    )
    course = "YAML with notebooks, sizes, model, time limits; -p overrides it"
    parser.add_argument("--parameters", metavar="FILE", help=course)


def asked(given: argparse.Namespace) -> Course:
    """The course file of the command line, overridden by its --notebooks and -p.

    Raises UsageError.
    """
    course = read_course(given.parameters) if given.parameters else Course()
    if given.notebooks:
        course.notebooks = given.notebooks.split(",")
    course.parameters |= {name: typed(value) for name, value in given.p}
    return course


def read_course(path: str | os.PathLike) -> Course:
    """An instructor's course.yaml, checked; raises UsageError with the key that is wrong."""
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        kind = type(data).__name__
        raise UsageError(f"{path} holds a {kind}; expected keys such as notebooks, sizes, model.")
    data = {key: value for key, value in data.items() if _checked(path, key, value)}
    named = {key.upper(): data[key] for key in ("profile", "model", "load_format") if key in data}
    sizes = {str(name).upper(): value for name, value in data.get("sizes", {}).items()}
    parameters = {str(name): value for name, value in data.get("parameters", {}).items()}
    return Course(
        notebooks=[str(name) for name in data.get("notebooks", ())] or None,
        parameters=named | sizes | parameters,
        cell_timeout=data.get("cell_timeout"),
        timeout=data.get("timeout"),
        rubric=data.get("rubric", {}),
        deadline=_deadline(path, data.get("deadline")),
        names=_names(path, data.get("names")),
    )


def _deadline(path, given: str | date | None) -> datetime | None:
    """A time with its zone, this machine's where none is given; of a date the end of that day."""
    if given is None:
        return None
    try:
        time = datetime.fromisoformat(str(given))
    except ValueError as error:
        raise UsageError(f"{path}: deadline is {given!r}; write 2026-12-04 23:59.") from error
    whole_day = re.fullmatch(r"\d{4}-\d\d-\d\d", str(given))
    return (time + timedelta(days=1) if whole_day else time).astimezone()


def _names(path, pattern: str | None) -> re.Pattern | None:
    """How a submission's file name gives the student's name and id."""
    try:
        found = re.compile(pattern) if pattern else None
    except re.error as error:
        raise UsageError(f"{path}: names is no regular expression ({error}).") from error
    if found and not found.groupindex.keys() & {"name", "id"}:
        raise UsageError(f"{path}: names needs a group (?P<name>...) or (?P<id>...).")
    return found


def _checked(path, key, value) -> bool:
    """Whether the key says something; raises UsageError when it is unknown or of the wrong type."""
    if key not in KEYS:
        close = difflib.get_close_matches(str(key), KEYS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(f"{path}: unknown key {key!r}{hint}; known: {', '.join(KEYS)}.")
    if value is not None and (not isinstance(value, KEYS[key]) or isinstance(value, bool)):
        raise UsageError(f"{path}: {key} is {value!r}, which is not of the right type.")
    return value is not None


def typed(value: str):
    """A parameter's value from the command line: None, True, 3, 1e-2, [1, 8], {...} or text."""
    if value in ("None", "null"):
        return None
    if value in ("True", "true", "False", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    if value.startswith(("[", "{")):
        import yaml

        with contextlib.suppress(yaml.YAMLError):
            return yaml.safe_load(value)
    return value


def find_notebooks(wanted: list[str] | None = None, folder: Path | None = None) -> list[Path]:
    """The notebooks named by number or by the beginning of their name, in order; all for None.

    Raises UsageError for a name that fits none.
    """
    folder = folder or NOTEBOOKS
    there = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not there:
        raise UsageError(f"There are no notebooks in {folder}.")
    if not wanted:
        return there
    chosen = set()
    for name in wanted:
        word = str(name).strip().removesuffix(".ipynb")
        word = f"{int(word):02}" if word.isdigit() else word
        found = [path for path in there if word and path.stem.startswith(word)]
        if not found:
            names = ", ".join(path.stem for path in there)
            raise UsageError(f"No notebook is called {name!r}; there are: {names}.")
        chosen.update(found)
    return sorted(chosen)


def parameters_of(notebook: Path) -> set[str]:
    """The names in the cell tagged `parameters`; empty if there is no such cell.

    Raises UsageError when the file is no notebook.
    """
    about = notebook_file.about(notebook)
    if "problem" in about:
        raise UsageError(f"{notebook} is not a notebook that can be run: {about['problem']}.")
    return set(about["parameters"] or ())


def assign_parameters(notebooks: list[Path], given: dict) -> dict[Path, dict]:
    """Each notebook's share of the parameters.

    Raises UsageError for a name that no notebook has.
    """
    declared = {path: parameters_of(path) for path in notebooks}
    every = sorted(set().union(*declared.values()) - OURS)
    for name in given:
        if name in OURS:
            raise UsageError(f"{name} is set by the runner: use --out.")
        if name not in every:
            raise UsageError(_no_such_parameter(name, every, declared))
    return {path: {n: v for n, v in given.items() if n in declared[path]} for path in notebooks}


def _no_such_parameter(name: str, every: list[str], declared: dict[Path, set[str]]) -> str:
    close = difflib.get_close_matches(name, every, n=1)
    close = close or difflib.get_close_matches(name.upper(), every, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    named = {path.stem: ", ".join(sorted(names - OURS)) for path, names in declared.items()}
    lists = "; ".join(f"{notebook}: {names or 'none'}" for notebook, names in named.items())
    return f"No notebook of this run has a parameter {name!r}.{hint} The parameters are: {lists}."
