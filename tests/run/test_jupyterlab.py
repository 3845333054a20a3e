"""The start page, the command line of JupyterLab, and what is kept out of saved notebooks."""

import json
import os
import re
from pathlib import Path

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
    assert before.count("- ☐ ") == 8 and "☑" not in before and "not begun" in before
    assert "**Next:** [01 review](" in before
    store = Results("01_review", tmp_path)
    store.save("baseline", "one_at_a_time", {"output_tokens_per_s": 5.0})
    store.save("checklist", "paper", {}, done=True, source="student")
    after = start_page.write(tmp_path).read_text()
    assert "☑ Read the PagedAttention paper" in after and after.count("- ☐ ") == 7
    assert "2 results saved, last 20" in after and "**Next:** [01 review](" not in after


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
