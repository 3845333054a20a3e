"""The workbook's own notebooks, run cell by cell in JupyterLab as a student does, on small workloads.

Cells, forms and pictures are the same as at full size, which would only take longer.
"""

import json
import os
import re

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import REPO
from helpers.run.jupyterlab import WIDGET
from tests.notebook_tools import SMALL

NOTEBOOKS = sorted(path.stem for path in (REPO / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# What a student would type; the forms of each notebook are found by their kind.
NUMBER, WORDS = "42", "Batching shares the weights between requests."


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cell_by_cell(server, open_notebook, name, tmp_path):
    (server.results / "measurements.jsonl").unlink(missing_ok=True)
    book = parameterize_notebook(
        load_notebook_node(str(REPO / "notebooks" / f"{name}.ipynb")), SMALL[name]
    )
    nbformat.write(book, server.root / "notebooks" / f"{name}.ipynb")
    cells = book.cells
    notebook = open_notebook(name)
    typed = {"number": 0, "words": 0}
    for index, cell in enumerate(cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        notebook.run(index, timeout=180)
        output = notebook.output(index)
        assert (
            output.locator(
                "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']:has-text('Traceback')"
            ).count()
            == 0
        ), f"cell {index} of {name} failed:\n{cell.source}\n\n{output.inner_text()}"
        if folder := os.environ.get("WORKBOOK_SCREENSHOTS"):  # to look at
            notebook.cell(index).screenshot(path=f"{folder}/{name}-{index:02}.png")
        for field in output.locator("input[type=text][placeholder^='a number']").all():
            field.fill(NUMBER)
            typed["number"] += 1
        for area in output.locator("textarea").all():
            area.fill(WORDS)
            typed["words"] += 1
    # What was typed is saved before the next cell runs, and after the last one by a pause in typing.
    notebook.page.wait_for_timeout(900)
    records = [
        json.loads(line)
        for line in (server.results / "measurements.jsonl").read_text().splitlines()
    ]
    mine = {
        r["variant"]
        for r in records
        if r["experiment"] == "prediction" and r.get("source") == "student"
    }
    assert (typed["number"] == 0) == (not mine), (
        f"{typed['number']} numbers typed, {len(mine)} predictions saved: {mine}"
    )
    words = [r for r in records if r["experiment"] == "answer" and r.get("text") == WORDS]
    assert (typed["words"] == 0) == (not words), (
        f"{typed['words']} answers typed, {len(words)} saved"
    )

    file = notebook.save()
    for cell in file.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert WIDGET not in data and not re.match(
                r"\w*(Widget|Box|Progress)\(", str(data.get("text/plain", ""))
            ), cell.source
    for image in notebook.panel.locator("figure img").all():
        assert len(image.get_attribute("alt")) > 20, (
            "a picture without a text for those who do not see it"
        )
    if name == "01_review":
        document = (server.results / "my_learnings.md").read_text()
        assert WORDS in document and re.search(r"Initial throughput: [\d,.]+", document), document[
            :800
        ]
