"""The drawings are what their script draws, and the notebooks carry these and no older ones."""

import base64
import importlib.util
import json
from xml.etree import ElementTree

import pytest

from helpers import REPO

SPEC = importlib.util.spec_from_file_location("draw", REPO / "docs/drawings/draw.py")
draw = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(draw)
RUN = "run: python docs/drawings/draw.py"


@pytest.mark.parametrize("drawing", draw.DRAWINGS, ids=lambda drawing: drawing.__name__)
def test_the_file_is_what_the_script_draws_and_stays_on_its_sheet(drawing):
    sheet = drawing()
    text = (draw.HERE / f"{drawing.__name__}.svg").read_text()
    assert text == sheet.svg(), RUN
    for box in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}rect"):
        x, y, width, height = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= sheet.width and 0 <= y <= y + height <= sheet.height


@pytest.mark.parametrize("path", sorted(draw.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_carries_the_drawings_that_it_shows(path):
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        text = "".join(cell["source"])
        carried = dict(draw.CARRIED.findall(text))
        for alt, name in draw.SHOWN.findall(text):
            assert len(alt) > 20, f"{name} needs a text for those who do not see it"
            drawn = (draw.HERE / f"{name}.svg").read_bytes()
            assert base64.b64decode(carried.get(name, "")) == drawn, RUN


def test_carrying_leaves_the_rest_of_a_notebook_as_it_is(tmp_path):
    shows = {"cell_type": "markdown", "source": ["See:\n", "\n", "![two stages][pipeline]"]}
    other = {"cell_type": "code", "source": ["x = '![a][pipeline]'"]}
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps({"cells": [shows, other]}, indent=1) + "\n")
    for _ in range(2):
        draw.carry(path)
        first, second = json.loads(path.read_text())["cells"]
        assert second == other and first["source"][:2] == shows["source"][:2]
        assert [line[:12] for line in first["source"][2:]] == ["![two stages", "\n", "[pipeline]: "]
