"""The figures' common style: what a reader gets in each front end."""

import base64
import copy
import io
import re
import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbconvert import MarkdownExporter
from PIL import Image

from helpers import REPO
from helpers.display import figures as style
from helpers.run.job import page_exporter
from tests.notebook_tools import run_cells, to_html


def simple(title="Tokens grow with the batch", **labels):
    fig, ax = style.figure(title)
    ax.plot([1, 2, 4], [10.0, 19.0, 33.0], marker="o")
    ax.set(**{"xlabel": "requests at a time", "ylabel": "output tokens/s", **labels})
    return fig


ROWS = [
    {"batch": 1, "tokens_per_s": 10.123456, "note": "a <b>"},
    {"batch": 2, "tokens_per_s": float("nan")},
]
CELL = """
from helpers.display import figures
fig, ax = figures.figure('The "best" <one>')
ax.plot([1, 2], [3, 4])
ax.set(xlabel="s", ylabel="GiB")
figures.show(fig, "kv_cache costs $2 and *more* than $1 < 5 % of it.", [{"batch": 1, "t": 10.123}])
"""


def test_a_figure_is_an_ordinary_picture_its_caption_text_its_values_a_closed_table():
    said = "Four at a time are 3.3 times faster."
    picture = style.Picture(simple('The "best" <one>'), said, ROWS, "batch")
    image, caption, values = picture.outputs()
    data, metadata = image._repr_mimebundle_()
    alt = f'The "best" <one>. {said}'
    assert data["text/plain"] == alt and metadata == {"image/png": {"alt": alt}}
    drawn = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert drawn.size[0] == pytest.approx(7 * style.DPI, abs=2), drawn.size
    assert caption._repr_mimebundle_() == {"text/markdown": said, "text/plain": said}
    page = values._repr_mimebundle_()["text/html"]
    assert "<details" in page and "<details open" not in page
    assert "10.1<" in page and "10.123456" not in page
    assert "no data" in page and "a &lt;b&gt;" in page
    assert "10.1 " in values.text and "a <b>" in values.text


@pytest.fixture(scope="module")
def notebook():
    return run_cells(CELL, CELL)


def test_every_figure_is_in_the_notebook_and_in_each_export(notebook):
    for cell in notebook.cells:
        assert [sorted(output.data) for output in cell.outputs] == [
            ["image/png", "text/plain"],
            ["text/markdown", "text/plain"],
            ["text/html", "text/plain"],
        ]
    page = to_html(notebook)
    images = BeautifulSoup(page, "html.parser").find_all("img")
    assert len(images) == 2, page
    assert all(image["alt"].startswith('The "best" <one>. kv_cache costs $2') for image in images)
    assert page.count("<details>") == 2
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    assert len(re.findall(r"!\[png\]\(output_\d+_\d+\.png\)", text)) == 2
    assert sum(name.endswith(".png") for name in resources["outputs"]) == 2
    assert text.count("<table") == 2, "the values are in it too"


def test_the_pages_of_a_run_have_the_alt_text_and_nothing_else_of_it(notebook):
    notebook = copy.deepcopy(notebook)
    image = notebook.cells[1].outputs[0]
    image.metadata["image/png"]["alt"] = '"><script>alert(1)</script> onerror="alert(1)'
    page = BeautifulSoup(page_exporter().from_notebook_node(notebook)[0], "html.parser")
    first, second = page.select(".jp-RenderedImage img")
    assert first["alt"].startswith('The "best" <one>. kv_cache costs $2')
    assert second["alt"] == image.metadata["image/png"]["alt"]
    assert set(second.attrs) == {"alt", "src"}


def test_a_folded_cell_is_folded_in_the_page_of_a_run(notebook):
    notebook = copy.deepcopy(notebook)
    notebook.cells[0].metadata["jupyter"] = {"source_hidden": True}
    page = BeautifulSoup(page_exporter().from_notebook_node(notebook)[0], "html.parser")
    folded, open_ = page.select(".jp-CodeCell")[:2]
    assert folded.select_one("details .jp-InputArea") and not folded.select("details img")
    assert not open_.select("details .jp-InputArea")


def test_the_formulas_of_every_notebook_are_drawn_without_the_internet():
    for path in sorted((REPO / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        text = "\n".join(cell.source for cell in notebook.cells)
        page = BeautifulSoup(page_exporter().from_notebook_node(notebook)[0], "html.parser")
        blocks = page.select('math[display="block"]')
        assert len(blocks) == text.count("$$") // 2, path.name
        assert not page.find("main").find(string=re.compile(r"\$|\\(frac|text)")), path.name


def test_a_caption_is_text_whatever_is_in_it(notebook):
    page = BeautifulSoup(to_html(notebook), "html.parser")
    assert "kv_cache costs $2 and *more* than $1 < 5 % of it." in page.get_text()


def test_a_plain_terminal_gets_title_and_caption():
    code = (
        "from helpers.display import figures as style\n"
        "fig, ax = style.figure('T'); ax.plot([1, 2]); ax.set(xlabel='s', ylabel='GiB')\n"
        "style.show(fig, 'A caption.', [{'s': 1}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[figure] T\nA caption.\n", done


def test_missing_labels_title_and_caption_are_named():
    with pytest.warns(UserWarning, match="y axis has no label"):
        style.Picture(simple(ylabel=""), "r")
    with pytest.warns(UserWarning, match="no caption"):
        style.Picture(simple(), "  ")
    with pytest.raises(ValueError, match="needs a title"):
        style.figure(" ")


def test_text_that_a_narrow_page_would_make_too_small_is_named():
    for width, size, small in ((7.5, 7, False), (9, 8, False), (11, 8, True), (14, 10, True)):
        fig, ax = style.figure("Wide", size=(width, 3))
        ax.set(xlabel="x", ylabel="y")
        ax.plot([1, 2], [1, 2], label="a")
        ax.legend(fontsize=size)
        found = style.problems(fig, "Reading.")
        assert bool(found) == small, f"{width} inches, {size} points: {found}"
        assert not small or "its smallest text is" in found[0]


def test_shared_twin_and_colour_bar_axes_need_no_second_label():
    fig, axes = style.figure("Two panels", rows=2, size=(7, 5), sharex=True)
    axes[0].plot([1, 2]), axes[1].plot([2, 1])
    axes[0].set_ylabel("GiB"), axes[1].set(xlabel="seconds", ylabel="tokens")
    twin = axes[0].twinx()
    twin.set_ylabel("KV cache in use (%)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style.Picture(fig, "r")
        fig, ax = style.figure("A map")
        seen = ax.imshow(np.eye(3))
        ax.set(xlabel="block", ylabel="request")
        fig.colorbar(seen, ax=ax, label="tokens")
        style.Picture(fig, "r")


def test_nothing_stays_open():
    before = plt.get_fignums()
    style.Picture(simple(), "r")
    assert plt.get_fignums() == before


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


# Machado, Oliveira and Fernandes 2009, severity 1.0 (protan, deutan), on linear RGB.
CVD = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("kind", CVD)
def test_first_colours_stay_apart_for_colour_blind_readers(kind):
    def seen(colour):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        out = np.clip(np.array(CVD[kind]) @ linear, 0, 1)
        return np.where(out <= 0.0031308, out * 12.92, 1.055 * out ** (1 / 2.4) - 0.055)

    first = style.COLORS[:4]
    gaps = {
        (a, b): float(np.linalg.norm(seen(a) - seen(b)))
        for i, a in enumerate(first)
        for b in first[i + 1 :]
    }
    assert min(gaps.values()) > 0.2, gaps
    for colour in first[:3]:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, f"{colour} has too little contrast on white"
