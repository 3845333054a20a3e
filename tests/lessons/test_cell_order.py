"""helpers/lessons/cell_order.py: a missing name says which cell makes it."""

import nbformat

from helpers.lessons import cell_order
from tests.notebook_tools import run_cells, texts


def test_a_missing_name_says_which_cell_to_run(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Title\ntext\n## 2. The baseline"),
        nbformat.v4.new_code_cell("import math"),
        nbformat.v4.new_code_cell(
            "# start it\nengine = open_engine(profile)\nfor step in range(3):\n    last = step"
        ),
        nbformat.v4.new_code_cell("%matplotlib inline\nengine = 2"),
    ]
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    said = cell_order.which_cell(path, "engine")
    assert (
        "code cell 2 under “2. The baseline”" in said and "`engine = open_engine(profile)`" in said
    )
    assert cell_order.which_cell(path, "last") and cell_order.which_cell(path, "math")
    assert (
        cell_order.which_cell(path, "open_engine") is None
        and cell_order.which_cell(tmp_path / "no.ipynb", "x") is None
    )


def test_the_advice_reaches_the_student_and_the_error_stays_an_error(tmp_path, monkeypatch):
    done = run_cells(
        "from helpers.lessons import cell_order\n"
        "cell_order.which_cell = lambda path, name: f'ADVICE for {name} in {path.name}'\n"
        "cell_order.order_help('01_review')",
        "print(engine)",
        "1 / 0",
        allow_errors=True,
    )
    error = done.cells[1].outputs[-1]
    assert error.output_type == "error" and error.ename == "NameError"
    assert "ADVICE for engine in 01_review.ipynb" in texts(done.cells[1])
    assert "ADVICE" not in texts(done.cells[2])
