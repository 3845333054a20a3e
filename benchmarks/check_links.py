"""Ask every address that the workbook gives its readers whether it is still there.

    python -m benchmarks.check_links [FILE...]     (reading_list.md, README.md and the notebooks)

Needs internet. Ends with 0 when no address is gone, 1 when one is, 2 when nothing could be reached
at all. A site that refuses scripts (403, 429) is reported, but that is not a broken address.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from helpers import REPO

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
    """0: no address is gone; 1: one is; 2: nothing could be reached at all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="Markdown files or notebooks")
    parser.add_argument("--timeout", type=float, default=20, help="seconds for each address")
    options = parser.parse_args(arguments)
    notebooks = sorted((REPO / "notebooks").glob("*.ipynb"))
    where: dict[str, list[str]] = {}
    for path in options.files or [REPO / "reading_list.md", REPO / "README.md", *notebooks]:
        for url in links_in(text_of(path)):
            where.setdefault(url, []).append(path.name)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda url: ask(url, options.timeout), where))
    for answer in sorted(answers, key=lambda a: (a.state == "ok", a.state, a.url)):
        print(f"{answer.state:<11} {answer.url}  ({', '.join(where[answer.url])})  {answer.note}")
    count = Counter(answer.state for answer in answers)
    print(", ".join(f"{n} {state}" for state, n in count.items()))
    if answers and count["unreachable"] == len(answers):
        print("Nothing could be reached: this machine has no internet, so nothing was checked.")
        return 2
    return 1 if count["gone"] else 0


if __name__ == "__main__":
    sys.exit(main())
