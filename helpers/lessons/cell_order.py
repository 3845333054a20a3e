"""What an error has to do with: a cell that was not run or did not end, a parameter of words.

Then the error is one sentence that says so.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
from pathlib import Path

from helpers import REPO
from helpers.display import card

# Parameters that are texts; all others are numbers, lists or dicts.
TEXTS = {"PROFILE", "MODEL", "LOAD_FORMAT", "RESULTS_DIR", "STUDENT", "PRICED"}
TEXTS |= {"PLAN_MODEL", "SECOND_MODEL", "PLAN_GPU", "TP_REASON", "ISSUE", "COMMENT"}
TEXTS |= {"BASELINE_FILE", "MY_CODE", "KEY_CHALLENGE", "QUIZ_ANSWERS", "LAYOUT_REASON"}


def load_ipython_extension(shell) -> None:
    """Help from the first cell on, whichever it is: `make lab` starts its kernels with this."""
    path = Path(os.environ.get("JPY_SESSION_NAME", ""))
    if (REPO / "notebooks" / path.name).is_file():
        order_help(path.name)


def order_help(notebook: str) -> None:
    """From now on an error says which cell of ``notebook`` to run first, where that is known.

    A missing name: the cell that makes it. Any other error in a cell that needs what an
    interrupted one should have made: that one. notebook: its file name, with or without ".ipynb",
    in the workbook's folder.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    path = REPO / "notebooks" / f"{Path(notebook).stem}.ipynb"
    unfinished: dict[str, None] = {}  # sources of cells that were stopped or failed

    def explain(shell, kind, error, trace, tb_offset=None):
        source = shell.user_ns.get("In", [""])[-1]
        missing = error.name if isinstance(error, NameError) else None
        sentence = None
        if missing and (advice := which_cell(path, missing)):
            sentence = f"NameError: {advice}"
        elif advice := _again(source, unfinished) or _words_for_a_number(source, error, shell):
            what = ": ".join(filter(None, [kind.__name__, str(error)]))
            sentence = f"{what.rstrip('.')}. {advice}"
        if sentence:
            error._render_traceback_ = lambda: [sentence]
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    def remember(result) -> None:
        source = result.info.raw_cell
        if not result.success:
            unfinished[source] = None
            return
        made = _names_made(source)
        for other in [other for other in unfinished if _names_made(other) <= made]:
            del unfinished[other]

    card.after_each_cell(shell, remember)
    shell.set_custom_exc((Exception,), explain)


def _again(source: str, unfinished) -> str | None:
    """One sentence, when a cell uses what an unfinished one should have made."""
    with contextlib.suppress(SyntaxError):
        names = (node for node in ast.walk(_parsed(source)) if isinstance(node, ast.Name))
        used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        for other in unfinished:
            if other != source and used & _names_made(other):
                begins = _first_line(other)
                return f"The cell that begins with `{begins}` did not finish: run it again first."
    return None


def _words_for_a_number(source: str, error: Exception, shell) -> str | None:
    """One sentence, when a cell failed that uses a parameter whose value is a text."""
    if not isinstance(error, (TypeError, ValueError)):
        return None
    with contextlib.suppress(SyntaxError):
        names = {node.id for node in ast.walk(_parsed(source)) if isinstance(node, ast.Name)}
        for name in sorted(names - TEXTS):
            value = shell.user_ns.get(name)
            if name.isupper() and isinstance(value, str):
                return f"This cell uses {name} = {value!r} of the parameter cell: give a number."
    return None


def which_cell(path, name: str) -> str | None:
    """One sentence: the first cell of the notebook at ``path`` that makes ``name``, or None."""
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
                    return _advice(name, source, heading, count)
    return None


def _advice(name: str, source: str, heading: str, count: int) -> str:
    where = f"under “{heading}”" if heading else "at the top"
    return (
        f"`{name}` is made in a cell that has not been run in this kernel: run code cell {count} "
        f"{where} first (it begins with `{_first_line(source)}`). "
        "Run > Run All Above Selected Cell does all of them."
    )


def _first_line(source: str) -> str:
    lines = (line.strip() for line in source.splitlines() if not line.startswith("#"))
    return next(filter(None, lines), "")[:60]


def _parsed(source: str) -> ast.Module:
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    return ast.parse("\n".join(lines))


def _names_made(source: str) -> set[str]:
    """Names that a cell's top level assigns, imports or defines."""
    with contextlib.suppress(SyntaxError):
        return set().union(*map(_made_by, _parsed(source).body))
    return set()


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _made_by(node: ast.AST) -> set[str]:
    """Names made by a statement and what is in it; a function's inner names are its own."""
    if isinstance(node, (*_SCOPES, *_COMPREHENSIONS)):
        return {node.name} if hasattr(node, "name") else set()
    if isinstance(node, ast.alias):
        return {(node.asname or node.name).split(".")[0]}
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) else set()
    return set().union(*(_made_by(child) for child in ast.iter_child_nodes(node)))
