"""helpers.run class --jobs and --ray: the same table as one after the other, with a node lost."""

import contextlib
import json
import os
import zipfile
from pathlib import Path

import psutil
import pytest

from helpers.run import course_file, summary
from helpers.run.classroom import plan, results
from tests.run.test_classroom import rows_of, times, week
from tests.run.tools import SAVE, leaves_a_process, no_process_with, notebook, run, start, wait_for

MARK = f"cluster-{os.getpid()}"
OF_THE_RUN = {"seconds", "at_once"}  # columns


def crafted(root: Path, go: Path, copies: int = 1) -> None:
    """Six submissions, or so many times six; the first two of each wait until `go` is there."""
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.1)"
    saves = SAVE + 'store.save("baseline", "one_at_a_time", {"output_tokens_per_s": 100.0})'
    # From above: a supervisor that sees its child die would have time to say so, or not.
    kills = (
        leaves_a_process(MARK)
        + "\nimport psutil\nfor process in reversed(psutil.Process().parents()[:2]):"
    )
    for n in range(copies):
        notebook(root / f"{n}a waits", "01_review", waits, saves)
        notebook(root / f"{n}b waits", "01_review", saves, waits)
        notebook(root / f"{n}c fails", "01_review", saves, "1/0")
        notebook(root / f"{n}d kills its supervisor", "01_review", kills + "\n    process.kill()")
        week(root / f"{n}e only writes", 100.0 + n)
        with zipfile.ZipFile(root / f"{n}f climbs out.zip", "w") as archive:
            archive.writestr("../escaped.txt", "x")


def table(out: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in OF_THE_RUN} for row in rows_of(out)]


def waiting(out: Path) -> int:
    """How many notebooks have come to the cell that waits."""
    texts = [p.read_text() for p in out.glob("attempts/*/sandbox/01.ipynb")]
    return sum('"status": "running"' in text and "go.exists" not in text for text in texts)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    base = tmp_path_factory.mktemp("class")
    (base / "go").touch()
    crafted(base / "s", base / "go", int(os.environ.get("CLASSES_OF_SIX", "1")))
    done = run("class", base / "s", "--out", base / "one", "--notebooks", "01")
    assert done.returncode == 0, done.stderr
    return base


def measured_at_once(out: Path) -> set[int]:
    files = out.glob("students/*/measured_here/measurements.jsonl")
    return {json.loads(f.read_text().splitlines()[0])["provenance"]["at_once"] for f in files}


def test_two_at_a_time_give_the_same_table_and_say_so(one_by_one):
    out = one_by_one / "two"
    done = run("class", one_by_one / "s", "--out", out, "--notebooks", "01", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert table(out) == table(one_by_one / "one")
    assert measured_at_once(out) == {2} and measured_at_once(one_by_one / "one") == {1}
    assert {row["at_once"] for row in rows_of(one_by_one / "one")} == {"1"}
    assert {row["at_once"] for row in rows_of(out)} == {"2"}


def left_of(out: Path) -> list[int]:
    """Processes of student code, which has its home in the results' folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HOME", "").startswith(str(out)):
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_node_and_then_the_command_are_killed_and_the_table_is_the_same(one_by_one):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    out, go = one_by_one / "ray", one_by_one / "go"
    go.unlink()
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        arguments = ["class", one_by_one / "s", "--out", out, "--notebooks", "01"]
        arguments += ["--ray", cluster.address]
        process = start(*arguments, marker=MARK)
        wait_for(lambda: waiting(out) == 2)
        cluster.remove_node(second, allow_graceful=False)
        go.touch()
        wait_for(lambda: len(times(out, "students/*/result.json")) >= 2)
        process.kill()
        said, err = process.communicate(timeout=20)
        assert "begins again elsewhere" in err, said + err
        wait_for(lambda: not left_of(out), 20)
        assert not left_of(out)
        before = times(out, "students/*/result.json")
        assert 2 <= len(before) < len(rows_of(one_by_one / "one"))
        assert {row["verdict"] for row in rows_of(out)} > {"waiting"}, "the table grows as it runs"
        done = run(*arguments)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(before)} of" in done.stdout, "it goes on from there"
    assert before.items() <= times(out, "students/*/result.json").items()
    assert table(out) == table(one_by_one / "one")
    assert not (out / "attempts").exists()
    no_process_with(MARK)


def test_a_cluster_that_is_not_there(tmp_path):
    week(tmp_path / "s" / "a", 1.0)
    done = run("class", tmp_path / "s", "--out", tmp_path / "o", "--ray", "127.0.0.1:9")
    assert done.returncode == 2 and "ray start --head" in done.stderr, done.stderr


def test_the_plan_of_a_class_says_where_its_figures_are_from(tmp_path):
    (tmp_path / "s").mkdir()
    arguments = ["class", tmp_path / "s", "--out", tmp_path / "o", "--dry-run", 300]
    said = run(*arguments, "--notebooks", "01,04").stdout
    seconds = json.loads(plan.RECORDED.read_text())["seconds"]
    alone, in_two = (
        sum(seconds[part][n] for part in ("01_review", "04_multi_gpu_planning")) for n in "12"
    )
    assert f"{alone:.1f} s (1 at a time), {in_two:.1f} s (2 at a time)" in said
    assert "recorded on" in said and not (tmp_path / "o").exists()
    expected = [summary.duration(300 * alone / 2), summary.duration(150 * in_two / 2)]
    assert ["2", *expected] in [line.split() for line in said.splitlines()]
    for n in range(plan.ENOUGH):
        folder = tmp_path / "o" / "students" / str(n)
        folder.mkdir(parents=True)
        own = results.Student(str(n), str(n), "ran", seconds=10.0 + n, at_once=4)
        (folder / "result.json").write_text(json.dumps(vars(own)))
    said = run(*arguments).stdout
    assert "11.0 s (4 at a time); means of this class's own" in said


def test_every_notebook_has_a_recorded_time():
    names = {path.stem for path in course_file.find_notebooks(None)}
    assert set(json.loads(plan.RECORDED.read_text())["seconds"]) == {*names, plan.READING}
