"""Run the notebooks as an example student fills them in, for the pages of notebooks/reference/.

    python -m benchmarks.example_student --out FOLDER [any option of python -m helpers.run]
    python -m benchmarks.reference_pages FOLDER

Predictions and answers are those of example_student.yaml, the puzzles' functions those of
notebooks/solutions.ipynb, the quiz's answers the right ones; each says that it is an example.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
import yaml

from helpers import REPO
from helpers.lessons.reading_notes.questions import make_quiz
from helpers.run import runner
from helpers.run.__main__ import main as run
from helpers.run.course_file import find_notebooks, parameters_of

FILE = REPO / "benchmarks" / "example_student.yaml"
NOTEBOOKS = REPO / "notebooks"
LABEL = "# An example student's answer, from solutions.ipynb\n"


def _function(source: str) -> str:
    """The name of the function that the cell defines, "" when it begins with something else."""
    return source.partition("(")[0].removeprefix("def ") if source.startswith("def ") else ""


def fill_in(folder: Path) -> None:
    """Copies of the five notebooks, in `folder`, with their puzzles solved."""
    solutions = {
        _function(cell.source): cell.source
        for cell in nbformat.read(NOTEBOOKS / "solutions.ipynb", as_version=4).cells
        if cell.cell_type == "code" and _function(cell.source)
    }
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code" and _function(cell.source) in solutions:
                cell.source = LABEL + solutions[_function(cell.source)]
        nbformat.write(notebook, folder / path.name)


def answers() -> dict:
    """Everything that the example student says, by parameter."""
    given = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    questions = make_quiz(given["STUDENT"])
    return given | {"QUIZ_ANSWERS": {question.id: question.answer for question in questions}}


def main(argv: list[str] | None = None) -> int:
    """The exit code of the run."""
    options = sys.argv[1:] if argv is None else argv
    given, _ = runner.arguments().parse_known_args(options)
    with tempfile.TemporaryDirectory(prefix="example-student-") as scratch:
        fill_in(Path(scratch))
        wanted = given.notebooks.split(",") if given.notebooks else None
        asked = map(parameters_of, find_notebooks(wanted, Path(scratch)))
        known = set().union(*asked)  # a parameter of no chosen notebook would be refused
        said = {name: value for name, value in answers().items() if name in known}
        course = Path(scratch) / FILE.name
        course.write_text(yaml.safe_dump({"parameters": said}, allow_unicode=True), "utf-8")
        folder = ["--notebook-folder", scratch, "--parameters", str(course)]
        return run([*folder, *options])


if __name__ == "__main__":
    raise SystemExit(main())
