"""helpers.run: what runs, what fails and why, and that nothing is left running.

The notebooks here are small and need no engine; tests/notebooks runs the real ones.
"""

import io
import json
import os
import signal
import time

import pytest

from helpers import REPO
from helpers.run import course_file, runner, summary
from helpers.run.course_file import UsageError
from helpers.run.runner import NotebookResult
from tests.run.tools import (
    PARAMETERS,
    SAVE,
    leaves_a_process,
    no_process_with,
    notebook,
    processes_with,
    run,
    start,
    wait_for,
)


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory):
    """One run over notebooks that end in every way there is, in folders with awkward names."""
    folder = tmp_path_factory.mktemp("books {a} b") / "note'books {0}"
    out = tmp_path_factory.mktemp("out {x} y") / "rün {run}"
    log = folder / "engine-1.log"
    copy = tmp_path_factory.mktemp("logs") / "engine-1.log"  # no spaces: as vLLM's logs are
    throughput = '{"output_tokens_per_s": 100.0 + SEED}'
    notebook(
        folder,
        "01_fine",
        SAVE + f'store.save("baseline", "one_at_a_time", {throughput})',
        leaves_a_process("left-by-01"),
        "import os, pathlib; pathlib.Path('here').write_text('x'); print(os.getcwd())",
    )
    log.write_text("\n".join(f"line {n}" for n in range(50)) + "\nERROR out of memory\n")
    notebook(
        folder,
        "02_fails",
        SAVE + 'store.save("prefix_caching", "on", {"ttft_ms_p50": 1.0})',
        "## Where it breaks\ntext",
        "import shutil; shutil.copy('engine-1.log', LOG)\n"
        "raise RuntimeError('The engine did not start. vLLM\\'s log: ' + LOG)",
        "1 + 1",
        parameters=PARAMETERS + f"\nLOG = {str(copy)!r}",
    )
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    notebook(folder, "03_dies", "## Too large\ntext", killed)
    saved = SAVE + 'store.save("hardware", "week5", {"gpu_count": 2})'
    notebook(folder, "04_endless", saved, "## Forever\ntext", "while True: pass")
    nobody = "a-kernel-that-nobody-has"
    notebook(folder, "05_exits", "import sys; sys.exit(0)", "print('never')", kernel=nobody)
    notebook(folder, "06_last", "value = 3\nvalue", parameters=None)
    stream = io.StringIO()
    data = runner.run(
        course_file.find_notebooks(folder=folder),
        {"SEED": 7},
        runner.new_folder(out),
        cell_timeout=4,
        timeout=240,
        progress=runner.Progress(stream),
    )
    return data, out, {nb["name"][:2]: nb for nb in data["notebooks"]}, stream.getvalue()


def test_one_failure_does_not_stop_the_rest(mixed_run):
    _, _, by, _ = mixed_run
    ends = {"01": "ok", "02": "failed", "03": "failed", "04": "timeout", "05": "failed", "06": "ok"}
    assert {n: nb["status"] for n, nb in by.items()} == ends, by


def test_parameters_and_the_results_folder_arrive(mixed_run):
    _, out, _, _ = mixed_run
    records = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    assert records[0]["metrics"] == {"output_tokens_per_s": 107.0}
    assert "- Initial throughput: 107 tokens/sec" in (out / "my_learnings.md").read_text()
    assert "- Number of GPUs: 2" in (out / "distributed_planning.md").read_text()


def test_a_failure_names_cell_section_exception_and_the_logs_last_lines(mixed_run):
    failure = mixed_run[2]["02"]["failure"]
    where = [failure[key] for key in ("cell", "of", "section", "ename")]
    assert where == [4, 5, "Where it breaks", "RuntimeError"], failure
    assert failure["log"].endswith("/engine-1.log"), failure
    assert failure["log_tail"][-1] == "ERROR out of memory", failure
    assert "raise RuntimeError" in failure["source"]


def test_a_dead_kernel_is_a_failure_at_its_cell(mixed_run):
    failure = mixed_run[2]["03"]["failure"]
    assert (failure["ename"], failure["section"]) == ("DeadKernelError", "Too large"), failure
    assert "memory" in failure["evalue"], failure


def test_an_endless_cell_ends_at_its_limit(mixed_run):
    failure = mixed_run[2]["04"]["failure"]
    assert (failure["ename"], failure["section"]) == ("CellTimeoutError", "Forever"), failure
    assert "4 s" in failure["evalue"], failure


def test_sys_exit_zero_does_not_pass_for_success(mixed_run):
    _, _, by, _ = mixed_run
    assert by["05"]["failure"]["ename"] == "SystemExit", by["05"]


def test_every_notebook_leaves_its_file_and_its_page(mixed_run):
    _, out, by, _ = mixed_run
    for nb in by.values():
        assert (out / f"{nb['name']}.ipynb").exists(), nb["name"]
        assert nb["name"] in (out / f"{nb['name']}.html").read_text(), nb["name"]
    assert not list((out / "logs").glob("*.job.json"))


def test_what_a_notebook_left_running_is_ended(mixed_run):
    no_process_with("left-by-01")


def test_the_summary_says_it_all(mixed_run):
    data, out, _, _ = mixed_run
    text = (out / "summary.md").read_text()
    assert "4 of 6 notebooks failed" in text
    for part in (
        "| 01_fine | ok |",
        "| 04_endless | TIMEOUT |",
        "### 02_fails",
        "out of memory",
        "| Initial throughput | 107 | measured |",
        "Parameters: `SEED=7`",
    ):
        assert part in text, f"{part!r} not in\n{text}"
    html = (out / "summary.html").read_text()
    assert "<table>" in html and "<script" not in html.lower() and "default-src 'none'" in html
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(data))


def test_progress_off_a_terminal_is_a_line_for_each_notebook(mixed_run):
    lines = mixed_run[3].splitlines()
    fine = [line for line in lines if line.startswith("[1/6] 01_fine") and line.endswith("  ok")]
    assert fine and "cell 5/5" in fine[0], lines
    failed = "FAILED: cell 4 of 5 (Where it breaks): RuntimeError"
    assert any("[2/6] 02_fails" in line and failed in line for line in lines), lines


# ---------------------------------------------------------------- wrong usage


def test_an_unknown_parameter_lists_the_right_ones_and_runs_nothing(tmp_path):
    notebook(tmp_path, "01_a", "1")
    notebook(tmp_path, "02_b", "1", parameters="PROFILE = 'auto'")
    out = tmp_path / "out"
    done = run("--out", out, "-p", "SEEDS", "3", "--notebook-folder", tmp_path)
    assert done.returncode == 2 and "'SEEDS'. Did you mean SEED?" in done.stderr, done.stderr
    assert "01_a: NOTEBOOK, SEED, SIZES" in done.stderr and "02_b: NOTEBOOK, PROFILE" in done.stderr
    assert not out.exists()


def test_a_parameter_goes_to_the_notebooks_that_have_it(tmp_path):
    a = notebook(tmp_path / "n {b}", "01_a", "1")
    b = notebook(tmp_path / "n {b}", "02_b", "1", parameters="PROFILE = 'auto'")
    assert course_file.assign_parameters([a, b], {"SEED": 3, "PROFILE": "cpu"}) == {
        a: {"SEED": 3},
        b: {"PROFILE": "cpu"},
    }
    with pytest.raises(UsageError, match="use --out"):
        course_file.assign_parameters([a], {"RESULTS_DIR": "x"})


def test_which_notebooks(tmp_path):
    for name in ("01_review", "02_advanced", "05_server"):
        notebook(tmp_path, name)

    def names(wanted):
        return [p.stem[:2] for p in course_file.find_notebooks(wanted, tmp_path)]

    assert names(None) == ["01", "02", "05"]
    assert names(["2", "01_review.ipynb"]) == ["01", "02"]
    assert names(["05_server"]) == ["05"]
    with pytest.raises(UsageError, match="No notebook is called '7'; there are: 01_review"):
        names(["7"])


@pytest.mark.parametrize(
    "given, value",
    [
        ("3", 3),
        ("1e3", 1000.0),
        ("True", True),
        ("None", None),
        ("cpu", "cpu"),
        ("[1, 8]", [1, 8]),
        ("007", 7),
        ("{a", "{a"),
        ("", ""),
        ("0.5", 0.5),
    ],
)
def test_values_on_the_command_line(given, value):
    assert course_file.typed(given) == value


def test_a_course_file(tmp_path):
    path = tmp_path / "course.yaml"
    path.write_text(
        'notebooks: ["01", 2]\nmodel: my/model\nsizes: {requests: 8}\n'
        "parameters: {SEED: 7}\ncell_timeout: 60\n"
    )
    course = course_file.read_course(path)
    assert course.parameters == {"MODEL": "my/model", "REQUESTS": 8, "SEED": 7}
    assert course.notebooks == ["01", "2"]
    assert (course.cell_timeout, course.timeout) == (60, None)
    with pytest.raises(UsageError, match="cannot be read"):
        course_file.read_course(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("modell: x", "did you mean model"),
        ("sizes: 3", "not of the right type"),
        ("- a", "holds a list"),
        ("a: [", "is not YAML"),
        ("timeout: true", "right type"),
    ],
)
def test_a_wrong_course_file(tmp_path, text, reason):
    (tmp_path / "course.yaml").write_text(text)
    with pytest.raises(UsageError, match=reason):
        course_file.read_course(tmp_path / "course.yaml")


def test_a_run_from_a_course_file_in_another_folder(tmp_path):
    saves = SAVE + 'store.save("e", "v", {"seed": SEED, "sizes": len(SIZES)})'
    notebook(tmp_path / "n", "01_a", saves)
    notebook(tmp_path / "n", "02_b", "raise SystemExit(1)")
    (tmp_path / "course.yaml").write_text(
        'notebooks: ["01"]\nsizes: {sizes: [1, 2]}\nparameters: {SEED: 5}\n'
    )
    course, out = tmp_path / "course.yaml", tmp_path / "o"
    arguments = ["--parameters", course, "-p", "SEED", "6", "--out", out]
    done = run(*arguments, "--notebook-folder", tmp_path / "n", cwd=tmp_path)
    assert done.returncode == 0 and "All ran" in done.stdout, done.stdout + done.stderr
    assert str(out / "summary.html") in done.stdout, done.stdout
    record = json.loads((out / "measurements.jsonl").read_text())
    assert record["metrics"] == {"seed": 6, "sizes": 2}


def test_the_limit_of_the_run(tmp_path):
    notebook(tmp_path, "01_a", "import time; time.sleep(60)")
    notebook(tmp_path, "02_b", "1")
    began = time.monotonic()
    done = run("--out", tmp_path / "o", "--timeout", 5, "--notebook-folder", tmp_path)
    notebooks = json.loads((tmp_path / "o" / "summary.json").read_text())["notebooks"]
    assert done.returncode == 1
    assert [nb["status"] for nb in notebooks] == ["timeout", "not run"], notebooks
    assert time.monotonic() - began < 30
    assert "limit of 5 s was reached" in notebooks[1]["failure"]["evalue"]


@pytest.fixture
def running(tmp_path):
    """A run whose first notebook has saved a result, left a process and sleeps."""
    marker = f"running-{os.getpid()}-{tmp_path.name}"
    saves = SAVE + 'store.save("e", "v", {"x": 1})'
    notebook(tmp_path, "01_a", saves, leaves_a_process(marker) + "\nimport time; time.sleep(600)")
    notebook(tmp_path, "02_b", "1")
    process = start("--out", tmp_path / "o", "--notebook-folder", tmp_path, marker=marker)
    wait_for(lambda: any("sleep(600)" in line for line in processes_with(marker)))
    yield process, marker, tmp_path / "o"
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_run_leaves_no_process(running, how):
    process, marker, out = running
    process.send_signal(how)
    said, err = process.communicate(timeout=30)
    assert process.returncode == 128 + how, said + err
    no_process_with(marker)
    data = json.loads((out / "summary.json").read_text())
    assert [nb["status"] for nb in data["notebooks"]] == ["stopped", "not run"]
    assert data["records"] == 1
    assert "nothing was left running" in err


def test_a_runner_that_is_killed_leaves_no_process(running):
    process, marker, _ = running
    process.kill()
    process.wait()
    no_process_with(marker, within_s=10)


# ---------------------------------------------------------------- the page


def test_text_from_a_notebook_cannot_break_the_page():
    failure = {
        "cell": 3,
        "of": 9,
        "section": "<img src=x>",
        "ename": "E",
        "evalue": "<script>alert(1)</script>",
        "source": "```\n<script>",
        "traceback": "",
        "log_tail": [],
    }
    blank = {
        "document": "d",
        "label": "a|b",
        "value": "<script>x</script> | y\n\n# no",
        "kind": "typed",
        "note": "\\",
    }
    run_ = {
        "started": "now",
        "seconds": 4000,
        "provenance": {"machine": "m", "vllm": "1", "torch": "2", "python": "3"},
        "parameters": {},
        "records": 0,
        "blanks": [blank],
        "notes": ["<b>"],
        "stopped": None,
        "notebooks": [vars(NotebookResult("01_a", "failed", failure=failure))],
    }
    html = summary.page("t", summary.from_markdown(summary.markdown(run_)))
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    assert "<h1>no" not in html and summary.duration(4000) == "1:06:40"


def test_the_example_of_a_course_file_fits_the_notebooks():
    course = course_file.read_course(REPO / "templates" / "course.yaml")
    notebooks = course_file.find_notebooks(course.notebooks)
    shares = course_file.assign_parameters(notebooks, course.parameters)
    with_seed = [share for share in shares.values() if "SEED" in share]
    assert len(notebooks) == 5 and len(with_seed) == 4, shares  # the planner draws nothing
    assert all(share["SEED"] == 7 for share in with_seed), shares
