"""Read one submission: what it says (contents.py), and a page of each of its notebooks.

    python -m helpers.run.classroom.reading FOLDER CONTENT.json

attempt.py starts this for each submission, in a process with limits, because a document or a
notebook can be built to take for ever to read. FOLDER is a student's folder of the results:
submitted/, notebooks/ and, when they were executed, measured_here/.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from helpers import replace_file
from helpers.results import documents
from helpers.run.classroom import contents
from helpers.run.classroom.notebook_page import page
from helpers.run.job import limit_resources

LIMITS = {"AS": 8 * 2**30, "FSIZE": 200 * 2**20, "CORE": 0, "CPU": 120}


def main(folder: Path, answer: Path) -> int:
    """The content first: a notebook that takes this process down costs pages only."""
    limit_resources(LIMITS)
    here = folder / "measured_here"
    if here.exists():
        documents.export(here)
    content = contents.assess(folder / "submitted", folder / "export", here)
    replace_file(answer, json.dumps(content).encode())
    for notebook in sorted((folder / "notebooks").glob("*.ipynb")):
        text = page(notebook).encode("utf-8", "replace")
        replace_file(notebook.with_suffix(".html"), text)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
