"""reading_list.md: its form, what the course asks for, and the script that checks its addresses."""

import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks import check_links

REPO = Path(__file__).resolve().parents[1]
TEXT = (REPO / "reading_list.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (\d+) \| \[(.+?)\]\((https://\S+?)\) \((.+?)\) \| (.+?) \| (.+?) "
    r"\| (\d+) min \| (\w+) \| (.+?) \|$",
    re.MULTILINE,
)
ROWS = ROW.findall(TEXT)
URLS = [row[2] for row in ROWS]


def test_every_entry_has_all_its_columns_and_the_numbers_run_on():
    numbered = re.findall(r"^\| \d+ \|", TEXT, re.MULTILINE)
    assert len(ROWS) == len(numbered) >= 40, (
        "a row lacks a column, or its form differs from the others'"
    )
    assert [int(row[0]) for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert {row[7] for row in ROWS} == {"first", "middle", "hard"}
    for row in ROWS:
        assert 5 <= int(row[6]) <= 120, f"{row[1]}: {row[6]} minutes"
        assert set(re.split(r", ", row[8])) <= {"01", "02", "03", "04", "05"}, f"{row[1]}: {row[8]}"
        assert len(row[4]) > 10 and len(row[5]) > 15, f"{row[1]} says too little"


def test_no_address_and_no_title_twice():
    assert len(set(URLS)) == len(URLS)
    assert len({row[1].lower() for row in ROWS}) == len(ROWS)


def test_vllm_pages_are_pinned_and_none_is_an_old_address():
    docs = [u for u in URLS if "docs.vllm.ai" in u]
    assert len(docs) >= 15
    for url in docs:
        # The meetups' page has no versions worth pinning.
        assert "/en/v0.32.0/" in url or url.endswith("/community/meetups/"), f"not pinned: {url}"
        assert url.endswith("/"), f"an old form of address: {url}"
    for old in (
        "models/engine_args/",
        "serving/distributed_serving",
        "models/performance",
        "performance/optimization",
        "compatibility_matrix",
    ):
        assert not any(old in u for u in URLS)


@pytest.mark.parametrize(
    "address",
    [
        # the three papers
        "arxiv.org/abs/2309.06180", "arxiv.org/abs/2205.14135", "arxiv.org/abs/2207.00032",
        "docs.vllm.ai/en/v0.32.0/configuration/engine_args/",
        "docs.vllm.ai/en/v0.32.0/serving/parallelism_scaling/",
        "docs.vllm.ai/en/v0.32.0/benchmarking/cli/",  # the three pages
        "huggingface.co/Qwen/Qwen2.5-7B-Instruct", "docs.pytorch.org/docs/stable/distributed.html",
        "developer.nvidia.com/blog/",  # GPU optimisation for transformers
        "databricks.com/blog/reliable-llm-inference-scale",  # inference at scale
        "a16z.com/llmflation",  # cost
        # the others of notebook 3
        "arxiv.org/abs/2403.02310", "arxiv.org/abs/2211.17192", "osdi22/presentation/yu",
    ],
)  # fmt: skip
def test_everything_that_the_course_lists_is_there(address):
    assert sum(address in u for u in URLS) == 1


def test_the_short_paths_name_entries_that_exist():
    table = TEXT.split("## A.")[0]
    numbers = [
        int(n)
        for n in re.findall(
            r"(?<![\w.])(\d+)(?=[,; (|]| to| and|$)",
            " ".join(re.findall(r"^\| \d+ hours? \| (.+) \|", table, re.MULTILINE)),
        )
    ]
    assert numbers and max(numbers) <= len(ROWS)


# --- the script


@pytest.fixture
def site():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            code = {"/gone": 404, "/refused": 403, "/old": 301}.get(self.path, 200)
            self.send_response(code)
            if code == 301:
                self.send_header("Location", "/new")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("/fine", "ok"),
        ("/fine#part", "ok"),
        ("/gone", "gone"),
        ("/refused", "refused"),
        ("/old", "moved"),
    ],
)
def test_each_answer_of_a_site_has_its_name(site, path, state):
    assert check_links.ask(site + path).state == state


def test_a_dead_host_is_unreachable_not_gone():
    assert check_links.ask("http://127.0.0.1:9/x", timeout_s=2).state == "unreachable"


def test_links_are_found_once_and_in_every_form():
    text = (
        "See [one](https://a.org/x), <https://b.org/y> and https://c.org/z. "
        "Again [one](https://a.org/x); "
        "not http://localhost:8000/v1 nor [this](http://127.0.0.1:8000/docs)."
    )
    assert check_links.links_in(text) == ["https://a.org/x", "https://b.org/y", "https://c.org/z"]
    assert set(URLS) <= set(check_links.links_in(TEXT))


def test_exit_codes(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_links, "LOCAL", re.compile("never"))
    page = tmp_path / "page.md"
    page.write_text(f"[a]({site}/fine) [b]({site}/refused)")
    assert check_links.main([str(page)]) == 0
    page.write_text(f"[a]({site}/fine) [b]({site}/gone)")
    assert check_links.main([str(page)]) == 1
    assert "1 gone" in capsys.readouterr().out
    page.write_text("[a](http://127.0.0.1:9/x)")
    assert check_links.main([str(page), "--timeout", "2"]) == 2
