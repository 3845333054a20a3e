"""The workbook's own notebooks, run cell by cell in JupyterLab as a student does, small.

Cells, forms and pictures are the same as at full size, which would only take longer.
"""

import json
import os
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter, MarkdownExporter
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from helpers import REPO
from helpers.run.job import page_exporter
from helpers.run.jupyterlab import WIDGET
from tests.notebook_tools import SMALL

NOTEBOOKS = sorted(path.stem for path in (REPO / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# What a student would type; the forms of each notebook are found by their kind.
NUMBER, WORDS = "42", "Batching shares the weights between requests."


ERROR = (
    "[data-mime-type='application/vnd.jupyter.error'], "
    "[data-mime-type='application/vnd.jupyter.stderr']:has-text('Traceback')"
)
SCREENSHOTS = os.environ.get("WORKBOOK_SCREENSHOTS")  # a folder: to look at


def run_and_type(notebook, cells) -> tuple[int, int]:
    """Every cell, and into every form that appears; (numbers, texts) typed."""
    numbers = words = 0
    for index, cell in enumerate(cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        notebook.run(index, timeout=180)
        output = notebook.output(index)
        failed = output.locator(ERROR).count()
        assert not failed, f"cell {index} failed:\n{cell.source}\n\n{output.inner_text()}"
        if SCREENSHOTS:
            notebook.cell(index).screenshot(path=f"{SCREENSHOTS}/{notebook.path.stem}-{index}.png")
        for field in output.locator("input[type=text][placeholder^='a number']:visible").all():
            field.fill(NUMBER)
            numbers += 1
        for area in output.locator("textarea").all():
            area.fill(WORDS)
            words += 1
    # What was typed is saved before the next cell runs, and after the last by a pause in typing.
    notebook.page.wait_for_timeout(900)
    return numbers, words


SHOWN = """selector => [...document.querySelectorAll(`.jp-OutputArea ${selector}`)]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height)
  .length"""


def every_export_shows_all(book, context, folder) -> None:
    """As many figures and tables in nbconvert's HTML and Markdown, and in the page's print."""
    data = [o["data"] for cell in book.cells for o in cell.get("outputs", []) if "data" in o]
    figures = sum("image/png" in one for one in data)
    tables = sum("<table" in one.get("text/html", "") for one in data)
    assert figures and tables

    page, _ = HTMLExporter(template_name="basic").from_notebook_node(book)
    outputs = BeautifulSoup(page, "html.parser").select(".output")
    assert sum(len(output.find_all("img")) for output in outputs) == figures
    assert sum(len(output.find_all("table")) for output in outputs) == tables

    for cell in book.cells:  # what is written is not counted
        cell.source = ""
    text, resources = MarkdownExporter().from_notebook_node(book)
    assert len(re.findall(r"!\[png\]\(|<img ", text)) == figures
    assert sum(name.endswith(".png") for name in resources["outputs"]) == figures
    assert text.count("<table") == tables

    file = folder / "page.html"
    file.write_text(page_exporter().from_notebook_node(book)[0])
    printed = context.new_page()
    printed.goto(file.as_uri())
    assert printed.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    printed.emulate_media(media="print")
    assert printed.evaluate(SHOWN, "img") == figures
    assert printed.evaluate(SHOWN, "table") == tables
    pdf = printed.pdf()
    assert len(re.findall(rb"/Subtype */Image", pdf)) >= figures - text.count("image/svg+xml")
    printed.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cell_by_cell(server, open_notebook, name, tmp_path):
    (server.results / "measurements.jsonl").unlink(missing_ok=True)
    source = load_notebook_node(str(REPO / "notebooks" / f"{name}.ipynb"))
    book = parameterize_notebook(source, SMALL[name])
    for cell in book.cells:  # folded cells have no prompt to click on
        cell.metadata.pop("jupyter", None)
    nbformat.write(book, server.root / "notebooks" / f"{name}.ipynb")
    notebook = open_notebook(name)
    numbers, words = run_and_type(notebook, book.cells)
    lines = (server.results / "measurements.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    typed = [r for r in records if r["experiment"] == "prediction" and r.get("source") == "student"]
    answers = [r for r in records if r["experiment"] == "answer" and r.get("text") == WORDS]
    assert bool(numbers) == bool(typed), f"{numbers} numbers typed, {len(typed)} saved: {typed}"
    assert bool(words) == bool(answers), f"{words} answers typed, {len(answers)} saved"

    book = notebook.save()
    every_export_shows_all(book, notebook.context, tmp_path)
    outputs = [o for cell in book.cells for o in cell.get("outputs", [])]
    for data in (output.get("data", {}) for output in outputs):
        assert WIDGET not in data, data
        text = str(data.get("text/plain", ""))
        assert not re.match(r"\w*(Widget|Box|Progress)\(", text), text
    for alt in (
        o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})
    ):
        assert len(alt) > 20, "a picture without a text for those who do not see it"
    if name == "01_review":
        document = (server.results / "my_learnings.md").read_text()
        assert WORDS in document, document[:800]
        assert re.search(r"Initial throughput: [\d,.]+", document), document[:800]
