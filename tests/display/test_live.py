"""Live views: what they leave without a front end, and that they never stop the work."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from helpers.display import live
from tests.notebook_tools import WIDGET, kinds, run_cells, texts, to_html

SWEEP = """
from helpers.display import card, live
for batch in range(18):
    view = live.Progress(f"batch {batch}", 8)
    for i in range(8):
        view.update(i + 1, tokens_per_s=812.4)
    view.close()
"""
START = """
import tempfile, time
from helpers.display import card, live
log = tempfile.NamedTemporaryFile("w", suffix=".log")
phases = [("load the weights", "Starting to load"), ("warm up", "init engine")]
with live.EngineStart(log.name, phases):
    time.sleep(0.3); print("Starting to load model", file=log, flush=True); time.sleep(0.9)
"""
DASHBOARD = """
from helpers.display import card, live
import itertools, time
count = itertools.count()
read = lambda: {"running": next(count), "kv_cache_usage": 0.25, "text": "not drawn"}
with live.dashboard(read, hz=20):
    time.sleep(0.5)
"""
STOPPED = """
from helpers.display import live
with live.Progress("long", 10) as view:
    view.update(4)
    1 / 0
"""
SCRIPT = """
from helpers.display import live
view = live.Progress("work", 3)
for done in (1, 2, 3):
    view.update(done, tokens_per_s=5.0)
view.close()
"""


MIXED = (
    START
    + "\nwith live.Progress('work', 2) as view:\n    view.update(2)\n"
    + "\n".join(START.splitlines()[3:])
)
FAILED = START.replace("time.sleep(0.9)", "raise ValueError('no memory')")
ASK = "from helpers.display import card, live; card.has_widgets()"


@pytest.fixture(scope="module")
def headless():
    return run_cells(SWEEP, START, DASHBOARD, ASK, MIXED, FAILED, STOPPED, allow_errors=True)


@pytest.fixture(scope="module")
def with_widgets():
    return run_cells(SWEEP, START, DASHBOARD, ASK, MIXED, env={"WORKBOOK_WIDGETS": "1"})


def test_without_a_front_end_no_widget_is_made(headless):
    assert texts(headless.cells[3]) == "False"
    assert WIDGET not in kinds(headless), kinds(headless)
    page = to_html(headless)
    assert "Widget(" not in page and "HBox(" not in page and "widget-view" not in page


def test_each_view_leaves_one_static_output(headless):
    sweep, start, board = headless.cells[:3]
    assert [len(c.outputs) for c in (sweep, start, board)] == [1, 1, 3], "picture, caption, values"
    lines = texts(sweep).splitlines()
    assert lines[0] == "... and 2 before these" and len(lines) == 1 + 16
    assert lines[-1].startswith("batch 17: 8 requests in ") and "812 tokens/s" in lines[-1]
    said = re.search(
        r"Engine started in ([\d.]+) s .*load vLLM ([\d.]+), load the weights ([\d.]+)\)",
        texts(start),
    )
    whole, load, weights = map(float, said.groups())
    assert whole >= 1.2 and load + weights == pytest.approx(whole, abs=0.1), texts(start)
    assert load >= 0.3, "until its log told of the next phase"
    assert "kv cache usage (%): at most 25" in texts(board) and "not drawn" not in texts(board)
    assert board.outputs[0].metadata["image/png"]["alt"].startswith("The server, live.")


def test_with_widgets_the_view_is_replaced_by_its_static_form(with_widgets):
    sweep, _, board, asked, _ = with_widgets.cells
    assert texts(asked) == "True"
    assert WIDGET not in kinds(with_widgets), "a finished view leaves no widget in the notebook"
    assert "batch 17: 8 requests" in texts(sweep) and "at most" in texts(board)


def test_one_cell_has_one_list_in_the_order_of_its_work(headless, with_widgets):
    for done in (headless, with_widgets):
        lines = texts(done.cells[4]).splitlines()
        assert [line.split()[0] for line in lines] == ["Engine", "work:", "Engine"], lines
        assert len(done.cells[4].outputs) == 1


def test_a_failed_start_says_so_and_the_error_is_kept(headless):
    said = texts(headless.cells[5])
    assert "The engine did not start: stopped after" in said and "no memory" in said


def test_stopped_work_says_how_far_it_came(headless):
    assert "long: stopped after 4 of 10 requests" in texts(headless.cells[6])


def test_a_script_prints_nothing_and_a_terminal_gets_one_line():
    command = [sys.executable, "-c", SCRIPT]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "", ""), plain
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs)
    assert child.wait(60) == 0
    os.close(theirs)
    seen = os.read(ours, 10_000).decode()
    os.close(ours)
    child.stdout.close()
    assert "\rwork: 3 of 3 requests, 5 tokens/s |" in seen and "\n" not in seen, repr(seen)
    assert seen.endswith("\r"), "the line is wiped at the end"


def test_a_dashboard_whose_server_goes_away_says_when_and_why(capsys):
    answers = iter([{"running": 1}, {"running": 2}])
    with live.dashboard(lambda: next(answers), hz=20) as view:
        while not view.stopped_early:
            time.sleep(0.01)
    assert [row["running"] for row in view.readings] == [1, 2]
    assert "Reading stopped after" in view.stopped_early and "StopIteration" in view.stopped_early
    assert "Reading stopped after" in capsys.readouterr().out


def test_a_dashboard_draws_limits_and_moments_with_their_names(capsys):
    with live.dashboard(lambda: {"running": 3, "waiting": 1}, hz=50) as view:
        view.limits["running"] = 4, "4 places"
        while len(view.readings) < 3:
            time.sleep(0.01)
        view.moments.append((time.perf_counter(), "the last request is sent"))
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.display.figures.Picture", lambda fig, *_: drawn.append(fig))
        view.picture()
    running, waiting = drawn[0].axes
    [legend] = drawn[0].legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["4 places", "the last request is sent"], "below the panels, each once"
    assert (len(running.lines), len(waiting.lines)) == (3, 2)


def test_a_dashboard_that_read_nothing_is_a_sentence(capsys):
    def read():
        raise OSError("refused")

    with live.dashboard(read, hz=20) as view:
        while not view.stopped_early:
            time.sleep(0.01)
    assert "OSError: refused" in capsys.readouterr().out


def test_status_line_and_time_left():
    view = live.Progress("x", 10)
    view.start -= 5.0
    view.update(5, tokens_per_s=1234.5, note="warm")
    said = r"5 of 10 requests, 1,234 tokens/s, warm note, 5(\.\d+)? s left"
    assert re.fullmatch(said, view.status()), view.status()


def test_a_phase_that_begins_just_before_the_end_takes_no_negative_time(tmp_path):
    log = tmp_path / "log"
    log.touch()
    with live.EngineStart(log, [("open the port", "Starting vLLM server on")]) as view:
        time.sleep(0.01)
        log.write_text("Starting vLLM server on http://127.0.0.1:8000")
    assert [label for label, _ in view.begun] == ["load vLLM", "open the port"]
    took = view.phases_s()
    assert min(took.values()) >= 0.001, "1.56e-05 s of a phase say nothing"
    assert sum(took.values()) == pytest.approx(view.seconds, abs=0.001)
