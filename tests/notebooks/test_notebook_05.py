"""Notebook 5 from top to bottom, as papermill runs it, with short loads."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest

from helpers.results.store import load
from tests.notebook_tools import SMALL, alt_texts, execute
from tests.run.tools import no_process_with

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "05_server_mode.ipynb"
PARAMETERS = SMALL["05_server_mode"] | {
    "PREDICTIONS": {"gain_of_8_clients": 5.0},
    "DECISIONS": {"load": "Half of it."},
}

pytestmark = pytest.mark.slow


def text_of(output) -> str:
    if output.output_type == "stream":
        return output.text
    return "" if output.output_type == "error" else str(output.data.get("text/plain", ""))


def test_its_cells_are_short():
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert statistics.median(len(c.source.splitlines()) for c in code) <= 8


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook_05")
    notebook = execute("05_server_mode", folder, PARAMETERS)
    records, problems = load(folder / "results")
    assert problems == []
    return notebook, {(r["experiment"], r["variant"]): r for r in records}, folder


@pytest.mark.timeout(600)
def test_it_runs_and_leaves_no_process(executed):
    notebook, _, folder = executed
    no_process_with(str(folder))
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert errors == []
    shouted = [
        o.text
        for c in notebook.cells
        for o in c.get("outputs", [])
        if o.output_type == "stream" and o.name == "stderr"
    ]
    assert shouted == [], "warnings on the page"


def test_no_key_is_in_the_outputs(executed):
    said = "\n".join(text_of(o) for c in executed[0].cells for o in c.get("outputs", []))
    assert "VLLM_API_KEY=..." in said
    # A key is 32 characters of URL-safe base64, and lone: no part of a path or an id is so long.
    assert not re.findall(r"(?<![\w./-])(?=[\w-]*\d)[\w-]{32}(?![\w./-])", said)
    assert re.findall(r"Bearer (\S+)", said) == ['$VLLM_API_KEY"']


def test_what_it_saves(executed):
    _, records, _ = executed
    metrics = {key: record["metrics"] for key, record in records.items()}
    assert {v for e, v in records if e == "closed_loop"} == {"1_clients", "4_clients", "16_clients"}
    assert {v for e, v in records if e == "open_loop"} == {"16_per_s", "60_per_s"}
    for (experiment, _), m in metrics.items():
        if experiment in ("closed_loop", "open_loop", "overload", "server"):
            assert m["failed"] == 0 and m["output_tokens_per_s"] > 0
    for m in (m for (e, _), m in metrics.items() if e == "open_loop"):
        assert 0 <= m["good_share"] <= 1 and 0 <= m["in_flight_last"] <= m["completed"]
    assert (
        metrics["closed_loop", "16_clients"]["in_flight_mean"]
        > metrics["closed_loop", "1_clients"]["in_flight_mean"]
    )
    assert (
        metrics["server", "all_at_once"]["completed"]
        == metrics["offline", "all_at_once"]["requests"]
        == PARAMETERS["REQUESTS"]
    )
    assert ("checklist", "server_mode") not in records, "nobody was there to tick it"
    assert "the goal held" in records["decision", "load"]["measured"]
    assert records["answer", "decision_load"]["text"] == PARAMETERS["DECISIONS"]["load"]
    assert (
        records["prediction", "gain_of_8_clients"]["metrics"]["predicted"]
        == PARAMETERS["PREDICTIONS"]["gain_of_8_clients"]
    )
    guessed = {v for e, v in records if e == "prediction"}
    assert {"server_share", "littles_law", "first_token_x"} <= guessed


def test_littles_law_is_reconciled_within_one_run(executed):
    _, records, _ = executed
    m = records["littles_law", "measured"]["metrics"]
    opened = [r["metrics"] for (e, _), r in records.items() if e == "open_loop"]
    [run] = [one for one in opened if one["arrived_per_s"] == m["arrived_per_s"]]
    assert run["e2e_ms_mean"] == m["e2e_ms_mean"], "clients and server of the same run"
    by_clients = m["requests_per_s"] * m["e2e_ms_mean"] / 1000
    guess = records["prediction", "littles_law"]
    assert guess["formula"] == pytest.approx(by_clients)
    assert guess["metrics"]["measured"] == pytest.approx(m["read_mean"]), "counted independently"
    # The server's clock runs inside the client's; on a busy machine much of the wait is on the way.
    assert 0.2 * by_clients < m["in_server_mean"] < 1.1 * by_clients


def test_the_capacity_is_the_most_that_the_closed_loop_answered(executed):
    _, records, _ = executed
    loads = [r["metrics"] for (e, _), r in records.items() if e == "closed_loop"]
    most = records["capacity", "closed_loop"]["metrics"]["answered_per_s"]
    assert most == pytest.approx(max(load["requests_per_s"] for load in loads))


def test_goodput_is_counted_by_the_puzzle_and_by_the_benchmark(executed):
    said = "\n".join(text_of(o) for c in executed[0].cells for o in c.get("outputs", []))
    opened = [
        record for (experiment, _), record in executed[1].items() if experiment == "open_loop"
    ]
    agree = re.findall(r"Goodput [\d.]+/s, as the benchmark counts", said)
    nearly = re.findall(r"Goodput ([\d.]+)/s, by the benchmark ([\d.]+)/s", said)
    assert len(agree) + len(nearly) == len(opened) >= 1
    assert all(float(a) == pytest.approx(float(b), abs=0.11) for a, b in nearly)
    assert "36 of 36 for 90 %: cannot tell" in said
    assert "37 of 37 for 90 %: held" in said


def test_the_overload_is_held_until_requests_wait(executed):
    notebook, records, _ = executed
    m = records["overload", "held"]["metrics"]
    assert m["arrived_per_s"] > m["requests_per_s"]
    said = "\n".join(text_of(o) for c in notebook.cells for o in c.get("outputs", []))
    assert re.search(r"until the last answer\. In between up to \d+ requests waited", said)


def test_what_the_page_says_of_the_key_and_of_full_queues_is_shown(executed):
    said = "\n".join(text_of(o) for c in executed[0].cells for o in c.get("outputs", []))
    paths = re.findall(r"(?:GET|POST) (/\S+) +(\d+) +(\d+)", said)
    assert len(paths) == 8
    for path, without, with_key in paths:
        assert (without, with_key) == ("401" if path.startswith("/v1") else "200", "200"), path
    mistakes = re.findall(r"^ *(\S.*?) +(\d{3}) ", said, re.MULTILINE)
    assert [status for name, status in mistakes if name.startswith("a parameter ")] == ["200"] * 2
    statuses = dict(mistakes)
    assert statuses["wrong API key"] == "401" and statuses["unknown model"] == "404"
    assert statuses["prompt longer than max_model_len"] == "400"
    assert "guided" in said.partition("Warnings in the server's log meanwhile:")[2][:200]
    bursts = {v: r["metrics"] for (e, v), r in executed[1].items() if e == "burst"}
    assert set(bursts) == {"at_most"} and bursts["at_most"]["limit"] >= 1
    for burst in bursts.values():
        assert 0 < burst["let_in"] < burst["sent"], "some were refused"
        assert burst["goodput_per_s"] >= 0
        assert 0 <= burst["good_percent"] <= 100 and 0 <= burst["without_percent"] <= 100


def test_comparisons_carry_their_range(executed):
    _, records, _ = executed
    server = records["server", "all_at_once"]["metrics"]
    assert server["server_share_x_low"] < server["server_share_x"] < server["server_share_x_high"]
    share = records["prediction", "server_share"]["metrics"]["measured"]
    assert share == pytest.approx(server["server_share_x"])
    assert records["closed_loop_gain", "4_over_1"]["metrics"]["throughput_x_values"] >= 3
    assert "gap_ms_over_default_x_low" in records["options", "changed"]["metrics"]


def test_each_option_changes_the_number_it_governs(executed):
    default, changed = (executed[1]["options", v]["metrics"] for v in ("default", "changed"))
    # 10 clients and 4 places: six requests wait for others before they start.
    assert changed["ttft_ms_p50"] > default["ttft_ms_p50"]
    assert changed["again_x"] > default["again_x"], "nothing is found again"
    # Cut into eight pieces, a long prompt holds the streams up for one piece at a time.
    # On a busy machine the range is wide, but it holds what the pieces do.
    assert changed["gap_ms_over_default_x_low"] < 0.8
    assert changed["gap_ms"] < default["gap_ms"]


def test_a_service_is_sized_by_a_rate_at_which_the_goal_holds(executed):
    notebook, records, _ = executed
    said = "\n".join(text_of(o) for c in notebook.cells for o in c.get("outputs", []))
    opened = [r["metrics"] for (e, _), r in records.items() if e == "open_loop"]
    sized = records["sizing", "copies"]["metrics"]
    if rate := sized.get("arrivals_per_s"):
        [run] = [m for m in opened if m["arrived_per_s"] == rate]
        assert run["good_share"] > 0.9
        assert f", so {-(-500 // rate):.0f} copies: " in said
    else:
        assert "good_share" not in sized and "No run held the goal" in said
    if missed := sized.get("missed_per_s"):
        assert f", so {500 // missed:.0f} are too few" in said


def test_only_the_server_with_a_shutdown_timeout_keeps_its_promises(executed):
    metrics = {v: r["metrics"] for (e, v), r in executed[1].items() if e == "shutdown"}
    assert metrics["timeout_30_s"]["complete"] == 4
    assert metrics["no_timeout"]["complete"] == 0


def test_every_figure_has_a_text_for_those_who_do_not_see_it(executed):
    pictures = alt_texts(executed[0].cells)
    assert len(pictures) >= 6 and all(len(alt) > 20 for alt in pictures)
