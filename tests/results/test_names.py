"""Every (experiment, variant) that an export reads is written by a notebook, under that name."""

import ast
import json
import re
from pathlib import Path

import pytest

from helpers.results import blanks, facts, store
from helpers.results.wording import SUBJECTS

ROOT = Path(__file__).resolve().parents[2]
# Exercises save under an experiment of their own; the key is the variant.
# Written by `check` (helpers/lessons/puzzles) for the student's functions.
PLANNED = {("puzzle", "", False)}
EXERCISES = {"ask": "answer", "choose": "answer", "predict": "prediction", "tick": "checklist"}
# Code that saves for a notebook that calls it.
SAVERS = [*(ROOT / "helpers/lessons").rglob("*.py"), ROOT / "helpers/results/own_numbers.py"]


class Asked(facts.Facts):
    """Remembers what it was asked for: (experiment, variant or its beginning, whether whole)."""

    def all(self, experiment, prefix=""):
        self.asked.add((experiment, prefix, False))
        return super().all(experiment, prefix)

    def get(self, experiment, variant):
        self.asked.add((experiment, variant, True))
        found = [
            r for r in self.records if (r["experiment"], r["variant"]) == (experiment, variant)
        ]
        return found[-1] if found else None


def read_by_the_blanks():
    recorded = store.load(ROOT / "notebooks/reference/h100")[0]
    assert recorded, "the recorded run is the example of a week that is done"
    asked = set()
    for records in ([], recorded):
        seen = Asked(records)
        seen.asked = asked
        for slot in blanks.SLOTS.values():
            slot(seen)
    return asked


def pattern_of(node):
    """What a name in the code can be, as (its fixed beginning, a regular expression)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else None for p in node.values]
        return parts[0] or "", "".join(".*" if p is None else re.escape(p) for p in parts)
    return "", ".*"


def either_of(node, assigned):
    """What an expression can be: the branches of a condition, also where a name stands for it."""
    node = assigned.get(getattr(node, "id", None), node)
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def written_in(source):
    """Yields (experiment, (beginning, regular expression) of the variant) of a program's saves."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, "cell", "exec", flags)
    single = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and len(n.targets) == 1]
    assigned = {n.targets[0].id: n.value for n in single if isinstance(n.targets[0], ast.Name)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("save", "save_run") and isinstance(node.args[0], ast.Constant):
            for variant in either_of(node.args[1], assigned):
                yield node.args[0].value, pattern_of(variant)
        elif name in EXERCISES:
            key = node.args[0] if name == "predict" else node.args[1]
            yield EXERCISES[name], pattern_of(key)


@pytest.fixture(scope="module")
def written():
    found = set()
    for path in (ROOT / "notebooks").glob("0*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                found |= set(written_in("".join(cell["source"])))
    for path in SAVERS:
        # Where the variant is an argument, the notebook that gives it counts.
        found |= {(e, v) for e, v in written_in(path.read_text()) if v[1] != ".*"}
    return found


def unwritten(asked, written):
    def is_written(experiment, variant, whole):
        variants = [pattern for name, pattern in written if name == experiment]
        if whole:
            return any(re.fullmatch(expression, variant) for _, expression in variants)
        return any(beginning.startswith(variant) for beginning, _ in variants)

    return sorted(name for name in asked - PLANNED if not is_written(*name))


def test_every_name_that_an_export_reads_is_written(written):
    assert unwritten(read_by_the_blanks(), written) == []


def test_every_prediction_has_words_for_the_documents(written):
    assert {v for e, (v, _) in written if e == "prediction"} == set(SUBJECTS)


@pytest.mark.parametrize("experiment", ["baseline", "optimised", "hardware", "strategy"])
def test_an_experiment_that_is_renamed_in_its_notebook_is_missed(written, experiment):
    renamed = {(name if name != experiment else name + "s", v) for name, v in written}
    assert experiment in {name for name, _, _ in unwritten(read_by_the_blanks(), renamed)}


def test_an_answer_that_is_renamed_on_either_side_is_missed(written):
    asked = read_by_the_blanks()
    assert unwritten({*asked, ("answer", "key_challenges", True)}, written) == [
        ("answer", "key_challenges", True)
    ]
    without_notes = {(e, v) for e, v in written if not v[0].startswith("note_")}
    assert unwritten(asked, without_notes) == [("answer", "note_", False)]
