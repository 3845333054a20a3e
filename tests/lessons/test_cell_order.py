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


def test_the_advice_is_one_line_and_the_error_stays_an_error():
    done = run_cells(
        "%load_ext helpers.lessons.cell_order\n1 + 1",
        "print(engine)",
        "1 / 0",
        env={"JPY_SESSION_NAME": "/any/where/01_review.ipynb"},
        allow_errors=True,
    )
    error = done.cells[1].outputs[-1]
    assert error.output_type == "error" and error.ename == "NameError"
    assert "`engine` is made in a cell that has not been run" in texts(done.cells[1])
    assert "Traceback" not in texts(done.cells[1]) and "\n" not in texts(done.cells[1]).strip()
    assert "run it again" not in texts(done.cells[2]), "an error of its own has no advice"


def test_an_interrupted_cell_and_a_word_where_a_parameter_is_a_number_are_one_sentence():
    done = run_cells(
        "from helpers.lessons.cell_order import order_help\norder_help('01_review')\nrows = []",
        "rows = []\nraise KeyboardInterrupt",
        "best = next(row for row in rows)",
        "rows = []\nrows.append(1)",
        "best = max([])",
        "SEED, MODEL = 'word', 'a/model'",
        "prompts = SEED + 1",
        "int(MODEL)",
        allow_errors=True,
    )
    interrupted, again, number, word = (texts(done.cells[i]) for i in (2, 4, 6, 7))
    said = "The cell that begins with `rows = []` did not finish: run it again first."
    assert interrupted == f"StopIteration. {said}", "one sentence, no traceback"
    assert "run it again" not in again
    assert number.endswith("This cell uses SEED = 'word' of the parameter cell: give a number.")
    assert "\n" not in number and "parameter cell" not in word


def test_a_text_is_no_wrong_value_of_a_parameter_that_is_a_text():
    done = run_cells(
        "from helpers.lessons.cell_order import order_help\norder_help('03_reading_notes')",
        "BASELINE_FILE = MY_CODE = KEY_CHALLENGE = QUIZ_ANSWERS = 'missing.json'",
        "int(BASELINE_FILE + MY_CODE + KEY_CHALLENGE + QUIZ_ANSWERS)",
        allow_errors=True,
    )
    assert "give a number" not in texts(done.cells[2])
