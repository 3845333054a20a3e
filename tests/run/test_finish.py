"""The last cell of a notebook and `make export`: all that can be handed in, and what is next."""

import re
import subprocess
import sys
import zipfile

import pytest

from helpers.engine import holders
from helpers.results.store import Results
from helpers.run import finish as module
from helpers.run.finish import finish

FILES = [
    "my_learnings.md",
    "my_learnings_appendix.md",
    "distributed_planning.md",
    "my_learnings.html",
    "results.zip",
]


@pytest.fixture
def week(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_RESULTS_DIR", str(tmp_path))
    Results("01_review").save("baseline", "one_at_a_time", {"output_tokens_per_s": 812.4})
    return tmp_path


def test_the_last_cell_exports_without_any_other_cell_in_at_most_eight_lines(week, capsys):
    finish("01_review")
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) <= 7 and "02_advanced_features.ipynb" in said[-1], said
    assert "812" in (week / "my_learnings.md").read_text()
    for name in [*FILES, "START.md"]:
        assert (week / name).exists() and any(str(week / name) in line for line in said), name
    finish("05_server_mode")
    assert "ipynb" not in capsys.readouterr().out, "nothing comes after the last notebook"


def test_the_links_lead_from_the_notebook_to_the_files(week, tmp_path, monkeypatch):
    monkeypatch.chdir(module.start_page.REPO / "notebooks")
    shown = []
    monkeypatch.setattr(module.card, "show", shown.append)
    finish("04_multi_gpu_planning")
    links = re.findall(r'href="([^"]+)"', shown[0].html)
    assert len(links) == 7 and links[-1] == "05_server_mode.ipynb"
    for link in links:
        assert (module.start_page.REPO / "notebooks" / link).resolve().exists(), link


def test_the_last_cell_closes_what_is_still_open(week, monkeypatch, capsys):
    monkeypatch.setattr(holders, "_closers", {"engine": lambda: "closed in 0.1 s"})
    finish("01_review")
    assert capsys.readouterr().out.startswith("closed in 0.1 s\n")


def test_the_zip_holds_the_results_and_the_page_shows_all_documents(week):
    assert module.main([str(week)]) == 0
    names = zipfile.ZipFile(week / "results.zip").namelist()
    assert sorted(name.split("/")[1] for name in names) == sorted(
        ["measurements.jsonl", *FILES[:4]]
    )
    page = (week / "my_learnings.html").read_text()
    assert "My LLM Inference Optimization Journey" in page and "Multi-GPU Strategy" in page
    assert "812" in page and "<script" not in page and "@media print" in page


def test_export_says_in_one_sentence_what_is_in_its_way(week):
    (week / "results.zip").mkdir()
    command = [sys.executable, "-m", "helpers.run", "export", str(week)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and "could not be written" in ended.stderr
    assert "Traceback" not in ended.stderr
