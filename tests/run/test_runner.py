"""helpers.run: what runs, what fails and why, and that nothing is left running.

The notebooks here are small and need no engine; tests/test_notebooks.py runs the real ones.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from helpers import REPO
from helpers.run import course_file, notebook_file, runner, summary
from helpers.run.course_file import UsageError
from helpers.run.runner import NotebookResult

PARAMETERS = "RESULTS_DIR = None\nSEED = 0  # of the prompts\nSIZES = None"
SAVE = "from helpers.results.store import Results\nstore = Results(NOTEBOOK, RESULTS_DIR)\n"


def notebook(
    folder: Path,
    name: str,
    *cells: str,
    parameters: str | None = PARAMETERS,
    kernel: str = "python3",
) -> Path:
    """A notebook of code cells; a cell that begins with '## ' is Markdown."""
    book = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": kernel, "display_name": kernel},
            "language_info": {"name": "python"},
        }
    )
    book.cells.append(nbformat.v4.new_markdown_cell(f"# Notebook {name}"))
    if parameters is not None:
        book.cells.append(
            nbformat.v4.new_code_cell(
                f"NOTEBOOK = {name!r}\n" + parameters, metadata={"tags": ["parameters"]}
            )
        )
    for cell in cells:
        make = (
            nbformat.v4.new_markdown_cell if cell.startswith("## ") else nbformat.v4.new_code_cell
        )
        book.cells.append(make(cell))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


def processes_with(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if (
                marker in " ".join(process.cmdline())
                or process.environ().get("TEST_MARKER") == marker
            ):
                found.append(process)
        except (psutil.Error, OSError):
            pass
    return found


def no_process_with(marker: str, within_s: float = 5) -> None:
    deadline = time.monotonic() + within_s
    while (left := processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"left running: {left}"


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory):
    """One run over notebooks that end in every way there is, in folders with awkward names."""
    folder = tmp_path_factory.mktemp("books {a} b") / "note'books {0}"
    out = tmp_path_factory.mktemp("out {x} y") / "rün {run}"
    log, log_copy = (
        folder / "engine-1.log",
        tmp_path_factory.mktemp("logs") / "engine-1.log",
    )  # no spaces: as vLLM's logs are
    notebook(
        folder,
        "01_fine",
        SAVE + 'store.save("baseline", "one_at_a_time", {"output_tokens_per_s": 100.0 + SEED})',
        "import subprocess, sys\n# a child in a session of its own that outlives the notebook\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # left-by-01'], start_new_session=True);",
        "import os, pathlib; pathlib.Path('here').write_text('x'); print(os.getcwd())",
    )
    log.write_text("\n".join(f"line {n}" for n in range(50)) + "\nERROR out of memory\n")
    notebook(
        folder,
        "02_fails",
        SAVE + 'store.save("prefix_caching", "on", {"ttft_ms_p50": 1.0})',
        "## Where it breaks\ntext",
        "import shutil; shutil.copy('engine-1.log', LOG)\nraise RuntimeError('The engine did not start. vLLM\\'s log: ' + LOG)",
        "1 + 1",
        parameters=PARAMETERS + f"\nLOG = {str(log_copy)!r}",
    )
    notebook(
        folder,
        "03_dies",
        "## Too large\ntext",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    )
    notebook(
        folder,
        "04_endless",
        SAVE + 'store.save("hardware", "week5", {"gpu_count": 2})',
        "## Forever\ntext",
        "while True: pass",
    )
    notebook(
        folder,
        "05_exits",
        "import sys; sys.exit(0)",
        "print('never')",
        kernel="a-kernel-that-nobody-has",
    )
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
    assert {n: nb["status"] for n, nb in by.items()} == {
        "01": "ok",
        "02": "failed",
        "03": "failed",
        "04": "timeout",
        "05": "failed",
        "06": "ok",
    }, by


def test_parameters_and_the_results_folder_arrive(mixed_run):
    _, out, _, _ = mixed_run
    records = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    assert records[0]["metrics"] == {"output_tokens_per_s": 107.0}
    assert "- Initial throughput: 107 tokens/sec" in (out / "my_learnings.md").read_text()
    assert "- Number of GPUs: 2" in (out / "distributed_planning.md").read_text()


def test_a_failure_names_cell_section_exception_and_the_logs_last_lines(mixed_run):
    _, _, by, _ = mixed_run
    failure = by["02"]["failure"]
    assert (failure["cell"], failure["of"], failure["section"], failure["ename"]) == (
        4,
        5,
        "Where it breaks",
        "RuntimeError",
    ), failure
    assert (
        failure["log"].endswith("/engine-1.log")
        and failure["log_tail"][-1] == "ERROR out of memory"
    ), failure
    assert "raise RuntimeError" in failure["source"]


def test_a_dead_kernel_is_a_failure_at_its_cell(mixed_run):
    _, _, by, _ = mixed_run
    failure = by["03"]["failure"]
    assert (
        failure["ename"] == "DeadKernelError"
        and failure["section"] == "Too large"
        and "memory" in failure["evalue"]
    ), failure


def test_an_endless_cell_ends_at_its_limit(mixed_run):
    _, _, by, _ = mixed_run
    failure = by["04"]["failure"]
    assert (
        failure["ename"] == "CellTimeoutError"
        and failure["section"] == "Forever"
        and "4 s" in failure["evalue"]
    ), failure


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
    assert any(
        line.startswith("[1/6] 01_fine") and line.endswith("  ok") and "cell 5/5" in line
        for line in lines
    ), lines
    assert any(
        "[2/6] 02_fails" in line and "FAILED: cell 4 of 5 (Where it breaks): RuntimeError" in line
        for line in lines
    ), lines


# ---------------------------------------------------------------- wrong usage


def command(*arguments, folder=None, **popen):
    extra = ["--notebook-folder", str(folder)] if folder else []
    return subprocess.run(
        [sys.executable, "-m", "helpers.run", *map(str, arguments), *extra],
        capture_output=True,
        text=True,
        timeout=120,
        **popen,
    )


def test_an_unknown_parameter_lists_the_right_ones_and_runs_nothing(tmp_path):
    notebook(tmp_path / "n", "01_a", "1")
    notebook(tmp_path / "n", "02_b", "1", parameters="PROFILE = 'auto'")
    done = command("--out", tmp_path / "out", "-p", "SEEDS", "3", folder=tmp_path / "n")
    assert done.returncode == 2 and "'SEEDS'. Did you mean SEED?" in done.stderr, done.stderr
    assert "01_a: NOTEBOOK, SEED, SIZES" in done.stderr and "02_b: NOTEBOOK, PROFILE" in done.stderr
    assert not (tmp_path / "out").exists()


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
    names = lambda wanted: [p.stem[:2] for p in course_file.find_notebooks(wanted, tmp_path)]
    assert (
        names(None) == ["01", "02", "05"]
        and names(["2", "01_review.ipynb"]) == ["01", "02"]
        and names(["05_server"]) == ["05"]
    )
    with pytest.raises(UsageError, match="No notebook is called '7'; there are: 01_review"):
        names(["7"])


def test_values_on_the_command_line():
    given = ["3", "1e3", "True", "None", "cpu", "[1, 8]", "007", "{a", "", "0.5"]
    assert [course_file.typed(v) for v in given] == [
        3,
        1000.0,
        True,
        None,
        "cpu",
        [1, 8],
        7,
        "{a",
        "",
        0.5,
    ]


def test_a_course_file(tmp_path):
    path = tmp_path / "course.yaml"
    path.write_text(
        'notebooks: ["01", 2]\nmodel: my/model\nsizes: {requests: 8}\nparameters: {SEED: 7}\ncell_timeout: 60\n'
    )
    course = course_file.read_course(path)
    assert course.parameters == {"MODEL": "my/model", "REQUESTS": 8, "SEED": 7}
    assert course.notebooks == ["01", "2"] and course.cell_timeout == 60 and course.timeout is None
    for text, reason in (
        ("modell: x", "did you mean model"),
        ("sizes: 3", "not of the right type"),
        ("- a", "holds a list"),
        ("a: [", "is not YAML"),
        ("timeout: true", "right type"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=reason):
            course_file.read_course(path)
    with pytest.raises(UsageError, match="cannot be read"):
        course_file.read_course(tmp_path / "gone.yaml")


def test_a_run_from_a_course_file_in_another_folder(tmp_path):
    notebook(
        tmp_path / "n", "01_a", SAVE + 'store.save("e", "v", {"seed": SEED, "sizes": len(SIZES)})'
    )
    notebook(tmp_path / "n", "02_b", "raise SystemExit(1)")
    (tmp_path / "course.yaml").write_text(
        'notebooks: ["01"]\nsizes: {sizes: [1, 2]}\nparameters: {SEED: 5}\n'
    )
    done = command(
        "--parameters",
        tmp_path / "course.yaml",
        "-p",
        "SEED",
        "6",
        "--out",
        tmp_path / "o",
        folder=tmp_path / "n",
        cwd=tmp_path,
    )
    assert (
        done.returncode == 0
        and "All ran" in done.stdout
        and str(tmp_path / "o" / "summary.html") in done.stdout
    ), done.stdout + done.stderr
    assert json.loads((tmp_path / "o" / "measurements.jsonl").read_text())["metrics"] == {
        "seed": 6,
        "sizes": 2,
    }


def test_the_limit_of_the_run(tmp_path):
    notebook(tmp_path / "n", "01_a", "import time; time.sleep(60)")
    notebook(tmp_path / "n", "02_b", "1")
    began = time.monotonic()
    done = command("--out", tmp_path / "o", "--timeout", 5, folder=tmp_path / "n")
    data = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert done.returncode == 1 and [nb["status"] for nb in data["notebooks"]] == [
        "timeout",
        "not run",
    ], data
    assert (
        time.monotonic() - began < 30
        and "limit of 5 s was reached" in data["notebooks"][1]["failure"]["evalue"]
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_run_leaves_no_process(tmp_path, how):
    marker = f"stopped-{how.name}-{os.getpid()}"
    notebook(
        tmp_path / "n",
        "01_a",
        SAVE + 'store.save("e", "v", {"x": 1})',
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # {marker}'], start_new_session=True)\ntime.sleep(600)",
    )
    notebook(tmp_path / "n", "02_b", "1")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "helpers.run",
            "--out",
            str(tmp_path / "o"),
            "--notebook-folder",
            str(tmp_path / "n"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TEST_MARKER": marker},
    )
    deadline = time.monotonic() + 60
    while (
        not any(
            marker in " ".join(p.cmdline()) and "sleep" in " ".join(p.cmdline())
            for p in processes_with(marker)
        )
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + how, out + err
    no_process_with(marker)
    data = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert [nb["status"] for nb in data["notebooks"]] == ["stopped", "not run"] and data[
        "records"
    ] == 1
    assert "nothing was left running" in err


def test_a_runner_that_is_killed_leaves_no_process(tmp_path):
    marker = f"killed-{os.getpid()}"
    notebook(
        tmp_path / "n",
        "01_a",
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # {marker}'], start_new_session=True)\ntime.sleep(600)",
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "helpers.run",
            "--out",
            str(tmp_path / "o"),
            "--notebook-folder",
            str(tmp_path / "n"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TEST_MARKER": marker},
    )
    deadline = time.monotonic() + 60
    while (
        not any("sleep(600)" in " ".join(p.cmdline()) for p in processes_with(marker))
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    process.kill()
    process.wait()
    no_process_with(marker, within_s=10)


# ---------------------------------------------------------------- the page


def test_text_from_a_notebook_cannot_break_the_page():
    run = {
        "started": "now",
        "seconds": 4000,
        "provenance": {"machine": "m", "vllm": "1", "torch": "2", "python": "3"},
        "parameters": {},
        "records": 0,
        "blanks": [
            {
                "document": "d",
                "label": "a|b",
                "value": "<script>x</script> | y\n\n# no",
                "kind": "typed",
                "note": "\\",
            }
        ],
        "notes": ["<b>"],
        "stopped": None,
        "notebooks": [
            vars(
                NotebookResult(
                    "01_a",
                    "failed",
                    failure={
                        "cell": 3,
                        "of": 9,
                        "section": "<img src=x>",
                        "ename": "E",
                        "evalue": "<script>alert(1)</script>",
                        "source": "```\n<script>",
                        "traceback": "",
                        "log_tail": [],
                    },
                )
            )
        ],
    }
    html = summary.page("t", summary.from_markdown(summary.markdown(run)))
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    assert "<h1>no" not in html and summary.duration(4000) == "1:06:40"


def test_the_example_of_a_course_file_fits_the_notebooks():
    course = course_file.read_course(REPO / "templates" / "course.yaml")
    notebooks = course_file.find_notebooks(course.notebooks)
    shares = course_file.assign_parameters(notebooks, course.parameters)
    assert len(notebooks) == 5 and all(share["SEED"] == 7 for share in shares.values()), shares
