"""Ask every address that the workbook gives its readers whether it is still there.

    python -m benchmarks.check_links                 reading_list.md, README.md and the notebooks' text
    python -m benchmarks.check_links reading_list.md

Needs internet. Ends with 0 when no address is gone, 1 when one is, 2 when nothing could be reached at all.
A site that refuses scripts (403, 429) is reported, but that is not a broken address.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
LINK = re.compile(
    r"\[[^\]]*\]\((https?://[^\s)]+)\)|<(https?://[^\s>]+)>|(?<![(<\[\w])(https?://[^\s)>\]`\"']+)"
)
LOCAL = re.compile(r"https?://(localhost|127\.|0\.0\.0\.0|\[::1\]|HOST|HEAD)")
AGENT = "Mozilla/5.0 (X11; Linux x86_64) link check of a course workbook"


@dataclass(frozen=True)
class Answer:
    """`state`: "ok", "moved" (see `note`), "refused", "gone" or "unreachable"."""

    url: str
    state: str
    note: str = ""


def links_in(text: str) -> list[str]:
    """Addresses in Markdown, each once, in order; not those of the reader's own machine."""
    found = [next(part for part in match.groups() if part) for match in LINK.finditer(text)]
    return list(dict.fromkeys(url.rstrip(".,;:") for url in found if not LOCAL.match(url)))


def text_of(path: Path) -> str:
    """A Markdown file, or the Markdown cells of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def ask(url: str, timeout_s: float = 20) -> Answer:
    """GET `url` and say what came back; the body is not read."""
    request = urllib.request.Request(
        url.split("#")[0], headers={"User-Agent": AGENT, "Accept": "text/html,*/*"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            final = reply.geturl()
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            return Answer(url, "gone", f"HTTP {error.code}")
        return Answer(url, "refused", f"HTTP {error.code}")
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Answer(url, "unreachable", str(getattr(error, "reason", error)))
    same = final.rstrip("/") == url.split("#")[0].rstrip("/")
    return Answer(url, "ok" if same else "moved", "" if same else f"now {final}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.check_links", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        help="Markdown files or notebooks (default: all that readers see)",
    )
    parser.add_argument("--timeout", type=float, default=20, help="seconds for each address")
    options = parser.parse_args(arguments)
    files = options.files or [
        p
        for p in (
            REPO / "reading_list.md",
            REPO / "README.md",
            *sorted((REPO / "notebooks").glob("*.ipynb")),
        )
        if p.exists()
    ]
    where: dict[str, list[str]] = {}
    for path in files:
        for url in links_in(text_of(path)):
            where.setdefault(url, []).append(path.name)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda url: ask(url, options.timeout), where))
    for answer in sorted(answers, key=lambda a: (a.state == "ok", a.state, a.url)):
        print(
            f"{answer.state:<11} {answer.url}  ({', '.join(where[answer.url])})"
            + (f"  {answer.note}" if answer.note else "")
        )
    count = {
        state: sum(a.state == state for a in answers)
        for state in ("ok", "moved", "refused", "gone", "unreachable")
    }
    print(", ".join(f"{n} {state}" for state, n in count.items()))
    if answers and count["unreachable"] == len(answers):
        print("Nothing could be reached: this machine has no internet, so nothing was checked.")
        return 2
    return 1 if count["gone"] else 0


if __name__ == "__main__":
    sys.exit(main())
