"""What a notebook's last cell does, and `make export`: everything that can be handed in.

    finish("01_review")     # needs no other cell: it works in a new kernel, after a death

In the results folder: my_learnings.md with its appendix, distributed_planning.md, all of them as a
page to print (my_learnings.html), and results.zip.
"""

from __future__ import annotations

import argparse
import html
import io
import os
import zipfile
from pathlib import Path

from helpers import REPO, replace_file
from helpers.display import card
from helpers.engine import holders
from helpers.results import documents
from helpers.results.documents import DOCUMENTS, ExportReport
from helpers.results.store import FILE_NAME, load, results_folder
from helpers.run import start_page, summary
from helpers.run.course_file import find_notebooks

PAGE, ARCHIVE = "my_learnings.html", "results.zip"
Line = tuple[str, list[Path]]  # a text, and the files that it is about


def write(folder: Path) -> ExportReport:
    """Bring everything that can be handed in up to date; what the export of the documents says.

    Raises ResultsError or OSError when a file cannot be written.
    """
    report = documents.export(folder)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in report.paths]
    parts = [f"<section>{summary.from_markdown(text)}</section>" for text in texts]
    summary.write_page(folder / PAGE, "My learnings", "\n".join(parts))
    replace_file(folder / ARCHIVE, _zipped(folder))
    return report


def _zipped(folder: Path) -> bytes:
    """The measurements, the documents and the page, as a zip."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (FILE_NAME, *(f"{name}.md" for name in DOCUMENTS), PAGE):
            if (folder / name).exists():
                archive.write(folder / name, f"{folder.name}/{name}")
    return into.getvalue()


def finish(notebook: str) -> None:
    """Close what this kernel holds, write all that can be handed in, show links and what is next.

    RESULTS_DIR is the notebook's, where that cell was run; else the usual folder.
    """
    lines: list[Line] = [(report, []) for report in holders.close_all()]
    shell = getattr(card.kernel(), "shell", None)
    folder = results_folder(shell.user_ns.get("RESULTS_DIR") if shell else None)
    report = write(folder)
    lines += [(note, []) for note in report.notes[:1]]
    lines += [(report.counts(path), [path]) for path in report.paths]
    lines.append(("to print, and everything in one file", [folder / PAGE, folder / ARCHIVE]))
    start_page.follow(REPO / "notebooks" / f"{notebook}.ipynb", folder)
    lines.append(("how far you are", [start_page.write(folder)]))
    after = [path for path in find_notebooks() if path.stem > notebook]
    lines += [("the next notebook", [path]) for path in after[:1]]
    # Links start in the notebook's folder; of a headless run in that of its output.
    output = os.environ.get("WORKBOOK_NOTEBOOK")
    card.show(_shown(lines, Path(output).parent if output else Path.cwd()))


def _shown(lines: list[Line], start: Path) -> card.Static:
    """A line for each text, its files before it: as links relative to `start`, as paths."""
    page, text = [], []
    for said, paths in lines:
        targets = [(os.path.relpath(path, start).replace(" ", "%20"), path.name) for path in paths]
        escaped = [tuple(map(html.escape, target)) for target in targets]
        links = [f'<a href="{target}">{name}</a>' for target, name in escaped]
        page.append(": ".join(filter(None, [" and ".join(links), html.escape(said)])))
        text.append(": ".join(filter(None, [" and ".join(map(str, paths)), said])))
    return card.Static(card.box("<br>".join(page)), "\n".join(text))


def main(argv: list[str]) -> int:
    """`python -m helpers.run export [FOLDER]`: the same from a terminal, for any results folder."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.run export",
        description="Fill the documents from what was measured; a page to print and a zip.",
    )
    parser.add_argument("folder", nargs="?", help="results folder (default: results/my_week)")
    folder = results_folder(parser.parse_args(argv).folder)
    report = write(folder)
    print(report)
    print(f"{folder / PAGE}: to print")
    print(f"{folder / ARCHIVE}: {len(load(folder)[0])} records, all files")
    return 0
