"""What the workbook says of vLLM stands where the list says, and the installed vLLM agrees."""

import inspect
import json
import shlex
from pathlib import Path

import pytest
import yaml

from helpers import REPO
from helpers.lessons.reading_notes.engine_args import vllm_version
from tests.statements import checks

LIST = yaml.safe_load((Path(__file__).parent / "statements.yaml").read_text(encoding="utf-8"))
RECORDS = sorted(
    path
    for folder in ("benchmarks", "notebooks/reference")
    for path in (REPO / folder).rglob("*.jsonl")
)
REACH = 500  # characters of code that a key stands for


def text_of(where: str) -> str:
    """The text at "file" or "file key": a notebook's cell by its id, a glossary term's answer.

    Of other files, the few lines from the quoted key on.
    """
    name, _, key = where.partition(" ")
    text = (REPO / name).read_text(encoding="utf-8")
    if name.endswith(".ipynb"):
        cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(text)["cells"]}
        return cells[key]
    if name.endswith("glossary.json"):
        return {entry["term"]: entry["answer"] for entry in json.loads(text)}[key]
    return text[text.index(f'"{key}"') :][:REACH] if key else text


def flat(text: str) -> str:
    """Without line breaks, and without the quotes between the pieces of a string in code."""
    return " ".join(" ".join(text.split()).replace('" "', "").split())


def name_of(entry: dict) -> str:
    return f"{Path(entry['where'].split()[0]).stem}: {entry['statement'][:50]}"


@pytest.mark.parametrize("entry", LIST, ids=name_of)
def test_the_statement_is_there_and_true(entry):
    assert flat(entry["statement"]) in flat(text_of(entry["where"])), (
        f"{entry['where']} no longer says «{entry['statement']}»: change the list, too"
    )
    name, *arguments = shlex.split(entry["how"])
    try:
        holds, seen = getattr(checks, name)(*arguments)
    except Exception as error:  # a newer vLLM may have moved what is asked: news, too
        holds, seen = False, f"{type(error).__name__}: {error}"
    assert holds, f"{entry['where']} says «{entry['statement']}». vLLM {vllm_version()}: {seen}"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.relative_to(REPO).as_posix())
def test_records_were_made_with_this_vllm(path):
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    made_with = {(line.get("provenance") or line).get("vllm") for line in lines} - {None}
    assert made_with <= {vllm_version()}, (
        f"{path.relative_to(REPO)} was recorded with vLLM {', '.join(made_with)}, and "
        f"{vllm_version()} is installed: record it again"
    )


def test_every_check_is_asked_and_no_statement_twice():
    asked = {shlex.split(entry["how"])[0] for entry in LIST}
    there = {
        name
        for name, check in inspect.getmembers(checks, inspect.isfunction)
        if inspect.signature(check).return_annotation == "Seen"
        and check.__module__ == checks.__name__
    }
    assert asked == there
    places = [(entry["where"], entry["statement"]) for entry in LIST]
    assert len(set(places)) == len(places) and {*map(frozenset, LIST)} == {
        frozenset({"statement", "where", "how"})
    }
