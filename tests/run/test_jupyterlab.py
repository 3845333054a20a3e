"""The start page, the command line of JupyterLab, and what is kept out of saved notebooks."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers.results.store import Results
from helpers.run import jupyterlab as lab
from helpers.run import start_page

REPO = Path(__file__).resolve().parents[2]


def test_the_start_page_shows_what_is_done_and_what_is_next(tmp_path):
    page = start_page.write(tmp_path)
    assert page == tmp_path / "START.md" and os.listdir(tmp_path) == ["START.md"], (
        "nothing is left beside it"
    )
    before = page.read_text()
    assert "- ☑" not in before and "- ◐" not in before and "0 of" in before
    assert "- ☐ Documented my progress in my_learnings.md" in before, "not in this page"
    assert "**Next:** [01 review](" in before
    store = Results("01_review", tmp_path)
    store.save("baseline", "one_at_a_time", {"output_tokens_per_s": 5.0})
    store.save("checklist", "paper", {}, done=True, source="student")
    after = start_page.write(tmp_path).read_text()
    assert "☑ Read the PagedAttention paper" in after and after.count("- ◐") == 1
    assert "2 records, the last of 20" in after


LESSON = """
## Predict (10 min)
---
guess = predict("weights", "How large?", "GiB")
## Measure (optional, 5 min)
---
for n in (1, 2):
    store.save_run("sweep", f"{n} requests", run)
if two_ranks:
    store.save("ranks", "two", {})
---
%magic that is no Python
## Read
---
print("nothing is saved here")
## Look around (optional, 8 min)
---
print("nor here")
## Solve
---
check(blocks_held)
ask(store, "insight_1", "And?")
---
takeaway = 1 / parts
"""


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A workbook with one lesson in it."""
    cells = []
    for part in LESSON.strip().split("\n---\n"):
        code, _, heading = part.partition("## ")
        code = {"cell_type": "code", "id": f"code-{len(cells)}", "source": code.rstrip("\n")}
        cells += [code] if code["source"] else []
        cells += [{"cell_type": "markdown", "source": "## " + heading}] if heading else []
    path = tmp_path / "notebooks" / "01_review.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(start_page, "REPO", tmp_path)
    return path


@pytest.fixture
def shell(monkeypatch):
    """What runs the cells of a kernel."""
    shell = InteractiveShell()
    monkeypatch.setattr(start_page.card, "kernel", lambda: SimpleNamespace(shell=shell))
    return shell


def test_the_sections_of_a_notebook_and_what_they_save_are_read_from_its_cells(lesson):
    found = start_page.sections(lesson)
    assert [(s.title, s.minutes, s.optional) for s in found] == [
        ("Predict", 10, False),
        ("Measure", 5, True),
        ("Look around", 8, True),
        ("Solve", None, False),
    ]
    assert [sorted(s.wants) for s in found] == [
        [("prediction", "weights")],
        [("sweep", "")],
        [],
        [("answer", "insight_1"), ("puzzle", "blocks_held")],
    ], "what stands under an if may never be saved"


def test_the_line_of_a_notebook_and_the_start_page_follow_every_save(
    lesson, shell, tmp_path, capsys
):
    store = Results("01_review", tmp_path / "week")
    start_page.progress(store)
    assert capsys.readouterr().out.strip() == (
        "0 of 2 sections done, about 10 of 10 minutes left. Next: Predict (10 min), then 1 more."
    )
    page = store.directory / "START.md"
    assert "☐ Predict (10 min)" in page.read_text()
    shell.run_cell("predict = lambda *_: 3.0")
    shell.run_cell('guess = predict("weights", "How large?", "GiB")')
    assert "◐ Predict (10 min)" in page.read_text(), "it has run, but nothing was saved"
    store.save("prediction", "weights", {"predicted": 3.0})
    assert "☑ Predict (10 min)" in page.read_text()
    store.save("answer", "insight_1", {}, text="batching pays")
    store.save("puzzle", "blocks_held", {}, solved=True)
    shell.run_cell("takeaway = 1 / 0", cell_id="code-11")
    assert "◐ Solve" in page.read_text(), "its last cell failed"
    shell.run_cell("takeaway = 1 / 1", cell_id="code-11")  # edited: the front end sends its id
    assert "☑ Solve" in page.read_text() and "**All done.**" in page.read_text()
    store.save("answer", "insight_1", {}, text="")
    store.save("puzzle", "blocks_held", {}, solved=False)
    assert "◐ Solve" in page.read_text(), "an answer that was withdrawn, a puzzle only tried"
    start_page.progress(store)
    assert "1 of 2 sections done. Next: Solve" in capsys.readouterr().out
    shell.run_cell('print("nor here")')
    assert "☑ Look around" in page.read_text(), "an optional section that saves nothing"
    assert len(shell.events.callbacks["post_run_cell"]) == 1, "progress() was run twice"


def test_a_start_page_that_cannot_be_written_does_not_stop_a_measurement(
    lesson, tmp_path, monkeypatch, capsys
):
    store = Results("01_review", tmp_path / "week")
    start_page.progress(store)
    (store.directory / "START.md").unlink()
    (store.directory / "START.md").mkdir()
    store.save("sweep", "1 requests", {})
    assert "START.md is not up to date" in capsys.readouterr().out
    assert len(store.records()) == 1


def test_links_of_the_start_page_lead_somewhere(tmp_path):
    page = start_page.write(tmp_path)
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert links, "no link at all"
    for link in links:
        assert (page.parent / link.replace("%20", " ")).resolve().exists(), link


def test_damaged_results_are_named_not_fatal(tmp_path):
    (tmp_path / "measurements.jsonl").write_text('{"broken\n')
    assert "line 1 was skipped" in start_page.write(tmp_path).read_text()


def test_jupyterlab_listens_on_this_machine_only_and_keeps_its_token(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    line = lab.command(["--port", "8899"], REPO / "results" / "my_week" / "START.md")
    assert (
        "--ServerApp.ip=127.0.0.1" in line
        and line[-2:] == ["--port", "8899"]
        and "--no-browser" in line
    )
    assert "--LabApp.default_url=/lab/tree/results/my_week/START.md" in line
    assert not [word for word in line if "token" in word or "password" in word], (
        "JupyterLab's own token stays on"
    )
    assert not [
        word for word in lab.command([], Path("/elsewhere/START.md")) if "default_url" in word
    ]
    settings = json.loads(
        (REPO / "helpers/run/lab_settings/labconfig/default_setting_overrides.json").read_text()
    )
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    env = lab.environment()
    assert env["PYTHONPATH"].split(os.pathsep)[0] == str(REPO)


def output(**data):
    return {"output_type": "display_data", "metadata": {}, "data": data}


def test_widgets_are_kept_out_of_saved_notebooks_and_nothing_else():
    cells = [
        {"cell_type": "code", "outputs": [
            output(**{lab.WIDGET: {"model_id": "1"}, "text/plain": "HBox(...)"}),
            output(**{lab.WIDGET: {"model_id": "2"}, "text/plain": "x", "text/html": "kept"}),
            output(**{"text/html": "<i>static</i>", "text/plain": "static"}),
            {"output_type": "stream", "name": "stdout", "text": "printed"},
            {"output_type": "error", "ename": "E", "evalue": "", "traceback": []},
        ]},
        {"cell_type": "markdown", "source": "text"},
    ]  # fmt: skip
    model = {
        "type": "notebook",
        "content": {"cells": cells, "metadata": {"widgets": {"state": 1}, "kernelspec": {}}},
    }
    lab.before_saving(model, path="x", contents_manager=None)
    kept = model["content"]["cells"][0]["outputs"]
    assert [sorted(o.get("data", {})) for o in kept] == [
        ["text/html", "text/plain"],
        ["text/html", "text/plain"],
        [],
        [],
    ]
    assert model["content"]["metadata"] == {"kernelspec": {}}
    for other in (
        {"type": "file", "content": "text"},
        {"type": "notebook", "content": None},
        {"type": "directory"},
    ):
        lab.before_saving(other)
