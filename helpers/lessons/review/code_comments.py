"""Code of Weeks 1 to 3, before and after its comments were improved: what can be counted."""

from __future__ import annotations

import ast
from pathlib import Path

from helpers.display import card
from helpers.lessons.exercises import tick

LABEL = "I reviewed and improved the comments and documentation of my code of Weeks 1 to 3"
HOW = (
    "Set MY_CODE in the parameter cell to one of your files, such as "
    "'../week3-optimization/run_optimized_benchmark.py', and run this cell. Then improve the file "
    "and run this cell again: before and after stand beside each other."
)
# Names of quantities say nothing without their unit; these endings are units.
QUANTITIES = ("time", "latency", "duration", "throughput", "memory", "size", "speed", "rate")
UNITS = ("s", "ms", "us", "ns", "bytes", "kb", "mb", "gb", "kib", "mib", "gib", "tokens")
UNITS += ("percent", "x", "hz", "per_s")


def counted(source: str) -> dict[str, int]:
    """Functions and classes, how many have a docstring, and names of quantities without a unit.

    Raises SyntaxError when it is not Python.
    """
    tree = ast.parse(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    names = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    comments = [line for line in source.splitlines() if line.lstrip().startswith("#")]
    return {
        "functions and classes": len(defined),
        "of them with a docstring": sum(bool(ast.get_docstring(node)) for node in defined),
        "lines of comments": len(comments),
        "quantities without a unit in their name": sum(map(_lacks_unit, names)),
    }


def _lacks_unit(name: str) -> bool:
    words = name.lower().split("_")
    return words[-1] in QUANTITIES and not name.lower().endswith(UNITS)


def before_and_after(store, path: str | None) -> None:
    """Show the file as it was at the first run and as it is now; the student ticks the rest.

    The first counts are kept as experiment "code_comments", variant the file's name.
    """
    if path is None:
        print(HOW)
    else:
        _compare(store, Path(path).expanduser())
    tick(store, "code_docs", LABEL)


def _compare(store, path: Path) -> None:
    try:
        now = counted(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        print(f"MY_CODE = {str(path)!r} cannot be read as Python: {error}.")
        return
    saved = store.get("code_comments", path.name)
    before = saved["before"] if saved else now
    store.save("code_comments", path.name, {}, before=before, after=now)
    rows = [{"what": what, "before": before[what], "now": now[what]} for what in now]
    card.show(card.table(rows, f"{path.name}, before and now"))
