"""Cells run out of order: a NameError says which cell makes the missing name."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from pathlib import Path

from helpers import REPO


def order_help(notebook: str) -> None:
    """From now on a NameError says which cell of ``notebook`` makes the missing name.

    notebook: its file name, with or without ".ipynb", in the workbook's folder.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    path = REPO / "notebooks" / f"{Path(notebook).stem}.ipynb"

    def explain(shell, kind, error, trace, tb_offset=None):
        advice = which_cell(path, error.name) if error.name else None
        if advice:
            error.add_note(advice)
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), explain)


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
    lines = (line.strip() for line in source.splitlines() if not line.startswith("#"))
    first = next(filter(None, lines), "")
    where = f"under “{heading}”" if heading else "at the top"
    return (
        f"`{name}` is made in a cell that has not been run in this kernel: run code cell {count} "
        f"{where} first (it begins with `{first[:60]}`). "
        "Run > Run All Above Selected Cell does all of them."
    )


def _names_made(source: str) -> set[str]:
    """Names that a cell's top level assigns, imports or defines."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    made: set[str] = set()
    with contextlib.suppress(SyntaxError):
        for statement in ast.parse("\n".join(lines)).body:
            made |= _made_by(statement)
    return made


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
