"""helpers.run class: thirty submissions, a dozen kinds of damage, nothing lost or left running."""

import csv
import json
import os
import re
import shutil
import signal
import struct
import tarfile
import time
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest
from markupsafe import escape
from nbformat import v4

from helpers.lessons.reading_notes.questions import make_quiz
from helpers.results import Results, export
from helpers.results.store import load
from helpers.run import finish, notebook_file
from helpers.run.classroom import contents, grading, intake, results
from helpers.run.classroom.differences import differing_numbers
from helpers.run.classroom.intake import Refused, find_submissions, take_in
from helpers.run.classroom.reading import page
from tests.run.tools import SAVE, leaves_a_process, no_process_with, notebook, run, start, wait_for

MARK = f"class-{os.getpid()}"
SECRET = "INSTRUCTORS_SECRET_TOKEN"


def week(folder: Path, throughput: float, insight="Batching shares the weights.") -> None:
    """What a student hands in besides notebooks: measurements and an exported document."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Results("01_review", folder)
    first = {"output_tokens_per_s": throughput, "ttft_ms_p50": 3.25}
    best = {"output_tokens_per_s": 10 * throughput, "improvement_x": 10.0}
    store.save("baseline", "one_at_a_time", first)
    store.save("optimised", "best", best, {"max_num_seqs": 64})
    store.save(
        "prediction",
        "improvement_x",
        {"predicted": 8.0, "measured": 10.0, "ratio": 1.25},
        unit="x",
        source="student",
        residual="Steps cost more.",
    )
    store.save("answer", "insight_1", {}, text=insight, source="typed")
    title = "Blocks that a request holds"
    store.save("puzzle", "blocks_held", {}, title=title, solved=True, source="evidence", of=10)
    store.save("puzzle", "draft", {}, title="A drafter", solved=False, source="evidence", of=10)
    export(folder)


def quiz_answers(folder: Path, student: str, wrong: int) -> None:
    """A self-check that claims that all was right."""
    questions = make_quiz(student)
    answers = {q.id: q.answer for q in questions}
    for question in questions[:wrong]:
        answers[question.id] = "no" if question.choices else 12345.5
    claimed = {"correct": len(questions), "questions": len(questions)}
    store = Results("03_reading_notes", folder)
    store.save("self_check", "score", claimed, answers=answers, student=student)


def zip_of(folder: Path, target: Path, extra=()) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"homework/{path.relative_to(folder)}")
        for name, data in extra:
            archive.writestr(name, data)


GOOD = SAVE + 'store.save("baseline", "one_at_a_time", {"output_tokens_per_s": 100.0})'
FAILING = {
    "syntax error": "def broken(:\n  pass",
    "endless loop": "while True: pass",
    "killed kernel": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "kills all above": leaves_a_process(MARK)
    + "\nimport psutil\n"
    + "for process in reversed(psutil.Process().parents()[:2]):   # papermill and its supervisor\n"
    + "    process.kill()",
    "eats memory": "import time\nblocks = []\nwhile True:\n"
    "    blocks.append(bytearray(128 * 2**20)); time.sleep(0.03)",
    "five hundred children": "import os, time\n"
    "for _ in range(500):\n    os.fork() or time.sleep(987)\ntime.sleep(60)",
    "fills the disk": "with open('big', 'wb') as f:\n    while True: f.write(b'x' * 2**22)",
}


def those_that_run(root: Path) -> dict[str, str]:
    for n, name in enumerate(["Ana García", 'O\'Brien "Bob"']):
        notebook(root / name, "01_review", GOOD)
        week(root / name, 100.0, insight=f"Insight of number {n}: <script>alert({n})</script>")
        quiz_answers(root / name, name, wrong=2 * n)
    clean = f"assert {SECRET!r} not in os.environ and os.environ['HOME'] != {os.environ['HOME']!r}"
    # vLLM's server makes sockets with names of 36 characters there; Unix takes 107 with the path.
    sockets = (
        "import socket, tempfile as t; socket.socket(1).bind(f'{t.gettempdir()}/{36 * \"x\"}')"
    )
    cell = f"{leaves_a_process(MARK)}\nimport os\n{clean}\n{sockets}"
    notebook(root / "leaves processes", "01_review", cell)
    older = root / "another version"
    notebook(older, "01_introduction", "print('an older notebook')", parameters=None)
    return dict.fromkeys([p.name for p in root.iterdir()], "ran")


def those_that_are_read(root: Path) -> dict[str, str]:
    """Documents and measurements only: nothing to run."""
    names = ["李小龙", "=cmd|' C calc'!A0", *(f"reader {n}" for n in range(7))]
    for n, name in enumerate(names):
        week(root / name, 198.0 + n, insight=f"Same insight {n}")
    document = root / "reader 0" / "my_learnings.md"
    text = document.read_text().replace("Initial throughput: 200 ", "Initial throughput: 999 ")
    document.write_text(text.replace("2. ___", "2. TTFT fell to 77 ms, and 10x is real"))
    copied = (root / "reader 0" / "measurements.jsonl").read_bytes()
    (root / "reader 6" / "measurements.jsonl").write_bytes(copied + b'{"half": \n\xff\xfe\n')
    (root / "empty").mkdir()
    return dict.fromkeys(names, "read") | {"empty": "empty"}


def those_that_fail(root: Path) -> dict[str, str]:
    for name, cell in FAILING.items():
        notebook(root / name, "01_review", cell)
    week(root / "endless loop", 300.0)
    unreadable = {
        "not a notebook": '{"cells": [',
        "format three": '{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}',
    }
    for name, text in unreadable.items():
        (root / name).mkdir()
        (root / name / "01_review.ipynb").write_text(text)
    return dict.fromkeys([*FAILING, *unreadable], "failed")


def archives(root: Path, scratch: Path) -> dict[str, str]:
    week(scratch / "zipped", 400.0)
    notebook(scratch / "zipped", "01_review", GOOD)
    zip_of(scratch / "zipped", root / "Zoë (zip).zip")
    week(scratch / "tarred", 500.0)
    with tarfile.open(root / "tarred.tar.gz", "w:gz") as archive:
        archive.add(scratch / "tarred", "work")
    (root / "cut off.zip").write_bytes((root / "Zoë (zip).zip").read_bytes()[:300])
    zip_of(scratch / "zipped", root / "climbs out.zip", [("../../escaped.txt", "x")])
    with (
        zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros.bin", "w", force_zip64=True) as stream,
    ):
        for _ in range(110):
            stream.write(bytes(2**20))
    with tarfile.open(root / "hundred gigabytes.tar", "w") as archive:
        info = tarfile.TarInfo("huge.bin")
        info.size = 100 * 2**30
        # The header alone: no hundred gigabytes are needed to claim them.
        archive.fileobj.write(info.tobuf())
    with tarfile.open(root / "tar with a link.tar", "w") as archive:
        info = tarfile.TarInfo("my_learnings.md")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    (root / "link inside").mkdir()
    (root / "link inside" / "measurements.jsonl").symlink_to("/etc/passwd")
    refused = ("cut off", "climbs out", "bomb", "hundred gigabytes", "tar with a link")
    ends = {"Zoë (zip)": "ran", "tarred": "read", "link inside": "refused"}
    return ends | dict.fromkeys(refused, "refused")


LIMITS = ["--cell-timeout", 10, "--memory", 1, "--file-size", 0.2, "--student-timeout", 120]
ARGUMENTS = ["--notebooks", "01", "--jobs", 3, *LIMITS]


def run_class(root, out):
    env = os.environ | {SECRET: "x"}
    return run("class", root, "--out", out, *ARGUMENTS, env=env)


def rows_of(out: Path) -> list[dict]:
    text = (out / "class.csv").read_text(encoding="utf-8-sig")
    return list(csv.DictReader(text.splitlines()))


def times(root: Path, pattern: str) -> dict[Path, int]:
    files = [p for p in root.glob(pattern) if p.is_file() and not p.is_symlink()]
    return {p: p.stat().st_mtime_ns for p in files}


@pytest.fixture(scope="module")
def the_class(tmp_path_factory):
    """(verdict expected of each, submissions, results, the command's end, rows, times before)."""
    base = tmp_path_factory.mktemp("class")
    root, out = base / "submissions {x} y", base / "out {0} z"
    root.mkdir()
    expected = those_that_run(root) | those_that_are_read(root) | those_that_fail(root)
    expected |= archives(root, base / "scratch")
    before = times(root, "**/*")
    done = run_class(root, out)
    rows = {r["student"]: r for r in rows_of(out)} if (out / "class.csv").exists() else {}
    return expected, root, out, done, rows, before


def result(the_class, name):
    found = [json.loads(p.read_text()) for p in the_class[2].glob("students/*/result.json")]
    return next(r for r in found if r["name"] == name)


def test_every_attack_in_the_table_has_its_test():
    here = Path(__file__).parent
    named = set(re.findall(r"`(test_\w+)`", (here / "attacks.md").read_text()))
    there = {
        name
        for path in here.glob("test_*.py")
        for name in re.findall(r"def (\w+)", path.read_text())
    }
    assert named and named <= there, named - there


def test_every_row_has_the_right_verdict(the_class):
    expected, _, _, done, rows, _ = the_class
    assert len(expected) == 31 and done.returncode == 0, done.stdout + done.stderr
    got = {name.removeprefix("'"): row["verdict"] for name, row in rows.items()}
    wrong = {name: rows.get(name) for name in expected if got.get(name) != expected[name]}
    assert got == expected, wrong


@pytest.mark.parametrize(
    "name, reason",
    [
        ("syntax error", "SyntaxError"),
        ("endless loop", "CellTimeoutError"),
        ("killed kernel", "DeadKernelError"),
        ("kills all above", "ProcessDied"),
        ("eats memory", "GiB of memory"),
        ("five hundred children", "GiB of memory"),
        ("fills the disk", "File too large"),
        ("not a notebook", "not a notebook"),
        ("format three", "format 3"),
        ("cut off", "cannot be read"),
        ("climbs out", "leads out of the submission"),
        ("bomb", "MiB"),
        ("hundred gigabytes", "102,400 MiB"),
        ("tar with a link", "is a link"),
        ("link inside", "a link out of the folder"),
    ],
)
def test_each_failure_says_why(the_class, name, reason):
    assert reason in the_class[4][name]["why"], the_class[4][name]["why"]


def test_nothing_escaped_and_the_submissions_are_untouched(the_class):
    _, root, out, _, _, before = the_class
    assert not list(root.parent.rglob("escaped.txt"))
    assert times(root, "**/*") == before
    assert not list(out.rglob("sandbox")), "where student code ran is removed"


def test_no_process_is_left(the_class):
    no_process_with(MARK)


def test_what_a_failed_student_wrote_is_not_lost(the_class):
    row = the_class[4]["endless loop"]
    assert row["insight_1"] == "Batching shares the weights."
    assert row["measurements"] == "6" and row["blanks_measured"] not in ("", "0")


def test_numbers_that_differ_from_the_measurements(the_class):
    content = result(the_class, "reader 0")["content"]
    nothing = "no measurement of 999 tokens/s; the nearest is 200"
    assert content["differ"] == [
        f"“- Initial throughput: 999 tokens/sec”: {nothing}",
        "“2. TTFT fell to 77 ms, and 10x is real”: no measurement of 77 ms; the nearest is 3.25",
    ]
    assert result(the_class, "reader 1")["content"]["differ"] == []


def test_the_self_check_is_graded_anew_whatever_the_file_claims(the_class):
    check = result(the_class, 'O\'Brien "Bob"')["content"]["self_check"]
    assert check["questions"] - check["correct"] == 2 == len(check["wrong"])
    assert "the file claims" in check["note"]


def test_predictions_checklist_and_damaged_lines(the_class):
    content = result(the_class, "reader 6")["content"]
    assert content["damaged_lines"] == 2
    prediction = content["predictions"][0]
    assert (prediction["ratio"], prediction["by"]) == (1.25, "student")
    assert content["puzzles"] == ["Blocks that a request holds"]
    assert the_class[4]["reader 6"]["puzzles_solved"] == "1"
    alike = the_class[4]["reader 6"]["alike"]
    assert alike.startswith("reader 0: ") and "records with the same id" in alike


def test_a_puzzle_that_only_the_file_calls_solved_does_not_count(the_class):
    content = result(the_class, "Ana García")["content"]
    assert content["puzzles"] == [], "her notebook ran and solved none"
    said = "recorded as solved, not solved when the notebooks ran here: Blocks that a request holds"
    assert said in content["impossible"]


def test_measured_here_is_kept_apart_from_what_was_submitted(the_class):
    out = the_class[2]
    folder = out / "students" / result(the_class, "Ana García")["slug"]
    assert load(folder / "measured_here")[0][0]["metrics"] == {"output_tokens_per_s": 100.0}
    assert "Initial throughput: 100 " in (folder / "measured_here" / "my_learnings.md").read_text()
    assert "Initial throughput: 100 " in (folder / "export" / "my_learnings.md").read_text()


def test_the_page_shows_everybody_and_runs_nothing(the_class):
    expected, _, out, _, _, _ = the_class
    html = (out / "class.html").read_text()
    assert "default-src 'none'" in html and "<script" not in html.lower()
    answers = (out / "answers.html").read_text()
    assert "&lt;script&gt;alert(1)" in answers and "<script" not in answers.lower()
    for name in expected:
        assert escape(name) in html, name
    for link in re.findall(r'href="((?:students|feedback)/[^"]+)"', html + answers):
        assert (out / unquote(link)).is_file(), f"a dead link: {link}"
    assert html.count('.html" rel="noopener') >= 10


def test_a_cell_of_the_csv_is_never_a_formula(the_class):
    assert "'=cmd|' C calc'!A0" in the_class[4]
    given = ("=1", "+1", "-1", "@x", "a", -1.5, None)
    assert [grading.csv_cell(v) for v in given] == ["'=1", "'+1", "'-1", "'@x", "a", "-1.5", ""]


def test_the_same_command_again_does_nothing_twice_and_a_new_submission_only(the_class):
    _, root, out, _, _, _ = the_class
    before = times(out, "students/*/result.json")
    week(root / "zz late", 1.0)
    try:
        began = time.monotonic()
        done = run_class(root, out)
        assert done.returncode == 0 and "32 students" in done.stdout, done.stdout + done.stderr
        after = times(out, "students/*/result.json")
        assert {p: after[p] for p in before} == before and len(after) == 32
        assert time.monotonic() - began < 60
    finally:
        shutil.rmtree(root / "zz late")


def sleeping(out: Path) -> bool:
    """Whether a student's notebook has come to its last cell."""
    running = [notebook_file.executed(p) for p in out.glob("attempts/*/sandbox/01.ipynb")]
    return any(cells and cells[-1].started for cells in running)


def test_a_class_that_is_stopped_goes_on_from_there(tmp_path):
    root, out, marker = tmp_path / "s", tmp_path / "o", f"{MARK}-stop"
    week(root / "a", 1.0)
    seconds = f"0.5 if pathlib.Path({str(tmp_path / 'go')!r}).exists() else 600"
    sleeps = f"import pathlib, time\ntime.sleep({seconds})  # {marker}"
    notebook(root / "b", "01_review", sleeps)
    arguments = ["class", root, "--out", out, "--notebooks", "01"]
    process = start(*arguments, marker=marker)
    wait_for(lambda: sleeping(out))
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from here" in err, said + err
    no_process_with(marker)
    assert [r["verdict"] for r in rows_of(out)] == ["read", "waiting"]
    (tmp_path / "go").touch()
    done = run(*arguments)
    ends = [(r["student"], r["verdict"]) for r in rows_of(out)]
    assert ends == [("a", "read"), ("b", "ran")], done.stdout + done.stderr


def test_read_only_executes_nothing(tmp_path):
    forbidden = tmp_path / "must-not-exist"
    path = notebook(tmp_path / "s" / "a", "01_review", f"open({str(forbidden)!r}, 'w')", "1/0")
    book = json.loads(path.read_text())
    for n, cell in enumerate(c for c in book["cells"] if c["cell_type"] == "code"):
        cell["execution_count"] = n + 1
    error = {"ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": ["x"]}
    book["cells"][-1]["outputs"] = [error | {"output_type": "error"}]
    path.write_text(json.dumps(book))
    notebook(tmp_path / "s" / "b", "01_review", "1")
    done = run("class", tmp_path / "s", "--out", tmp_path / "o", "--read-only")
    rows = rows_of(tmp_path / "o")
    assert [r["verdict"] for r in rows] == ["read", "read"], done.stdout + done.stderr
    assert "cell 3 of 3: ZeroDivisionError" in rows[0]["why"]
    pages = sorted((tmp_path / "o" / "feedback").glob("*.html"))
    assert "not run" in pages[1].read_text()
    assert not forbidden.exists()


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["gone", "--out", "o"], "is not a folder"),
        (["s", "--out", "s/o"], "lies inside"),
        (["s", "--out", "o", "-p", "NO_SUCH", "1"], "has a parameter 'NO_SUCH'"),
        (["s", "--out", "o", "--jobs", "0"], "at least 1"),
        (["s", "--out", "o", "--jobs", "100000"], "2.7 GiB, so this machine holds"),
    ],
)
def test_wrong_usage(tmp_path, arguments, reason):
    (tmp_path / "s").mkdir()
    done = run("class", *arguments, "--notebooks", "01", cwd=tmp_path)
    assert done.returncode == 2 and reason in done.stderr, done.stderr


# ---------------------------------------------------------------- the pieces


def test_names():
    assert intake.slug("Ana") == intake.slug("Ana") != intake.slug("ana")
    for name in ("../x", "a b", "李", "'; rm -rf /", "x" * 300, "\u202etxt.exe", "a\nb"):
        assert re.fullmatch(r"[A-Za-z0-9_]+-[0-9a-f]{8}", intake.slug(name)), name
    assert "\u202e" not in intake.display("a\u202eb")
    assert intake.display(os.fsdecode(b"\xff\xfea")).endswith("a")


def test_the_same_name_twice_and_what_is_no_submission(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann.zip").write_bytes(b"")
    (tmp_path / "grades.xlsx").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "linked").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    found, notes = find_submissions(tmp_path)
    taken = [("ann", False), ("ann (ann.zip)", False), ("linked", True), ("pipe", True)]
    assert [(s.name, bool(s.refused)) for s in found] == taken
    assert notes == ["grades.xlsx was left out: not a folder, an archive or a notebook."]


@pytest.mark.parametrize(
    "member",
    ["../x", "a/../../x", "/etc/x", "C:\\x", "..\\x", "a\x00b", "a\nb", "d/" * 30 + "x", "n" * 250],
)
def test_members_that_lead_elsewhere(member):
    with pytest.raises(Refused):
        intake.safe_parts(member)


def test_a_zip_that_lies_about_its_sizes_is_counted_as_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MAX_FILE", 2**20)
    liar = tmp_path / "liar.zip"
    with zipfile.ZipFile(liar, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.bin", bytes(3 * 2**20))
    true, claimed = struct.pack("<I", 3 * 2**20), struct.pack("<I", 100)
    liar.write_bytes(liar.read_bytes().replace(true, claimed))
    with pytest.raises(Refused):
        take_in(liar, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_in_a_students_folder_is_unpacked_within_the_same_limits(tmp_path):
    week(tmp_path / "my_week", 400.0)
    folder = tmp_path / "Ada_123_assignsubmission_file"
    folder.mkdir()
    finish.write(tmp_path / "my_week")
    shutil.copy(tmp_path / "my_week" / finish.ARCHIVE, folder)
    notebook(folder, "01_review", GOOD)
    taken = take_in(folder, tmp_path / "out")
    assert taken["root"] == "." and list(taken["notebooks"]) == ["01_review.ipynb"]
    assert contents.gather(tmp_path / "out", tmp_path / "gathered") == []
    assert (tmp_path / "gathered" / "measurements.jsonl").exists(), "results/my_week"
    zip_of(tmp_path / "my_week", folder / "second.zip", [("../../escaped.txt", "x")])
    with pytest.raises(Refused):
        take_in(folder, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    "members, reason",
    [
        ([("x", 0o120777)], "is a link"),
        ([("x", 0o010644)], "neither a file"),
        ([("x", 0o100644), ("./x", 0o100644)], "there twice"),
        ([("x", 0o100644), ("x/y", 0o100644)], "there twice"),
    ],
)
def test_zip_links_special_files_and_duplicates(tmp_path, members, reason):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for member, mode in members:
            info = zipfile.ZipInfo(member)
            info.external_attr = mode << 16
            archive.writestr(info, "/etc/passwd")
    with pytest.raises(Refused, match=reason):
        take_in(tmp_path / "a.zip", tmp_path / "out")


def test_an_encrypted_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", "secret")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[6] |= 1  # the flag, in the member's header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(Refused, match="encrypted"):
        take_in(tmp_path / "a.zip", tmp_path / "out")


def test_the_workbooks_solutions_are_not_executed_as_a_students_notebook(tmp_path):
    notebook(tmp_path / "s", "01_review", "1")
    notebook(tmp_path / "s", "solutions", "1")
    assert list(take_in(tmp_path / "s", tmp_path / "out")["notebooks"]) == ["01_review.ipynb"]


def test_folders_with_links_inside_are_taken_without_them(tmp_path):
    place = tmp_path / "s" / "notebooks"
    notebook(place, "01_review", "1")
    (place / "again.ipynb").symlink_to("01_review.ipynb")
    (place / ".env").write_text("secret")
    os.mkfifo(place / "pipe")
    taken = take_in(tmp_path / "s", tmp_path / "out")
    assert taken["root"] == "notebooks" and len(taken["notes"]) == 2
    [(name, about)] = taken["notebooks"].items()
    assert name == "01_review.ipynb"
    assert about["parameters"] == ["NOTEBOOK", "RESULTS_DIR", "SEED", "SIZES"]
    files = [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert files == ["01_review.ipynb"]


@pytest.mark.parametrize("kind", ["pipe", "link", "list", "no code", "numbers"])
def test_an_executed_notebook_that_student_code_has_replaced_is_not_read(tmp_path, kind):
    path = tmp_path / "01.ipynb"
    if kind == "pipe":
        os.mkfifo(path)  # reading would wait for ever
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        timing = {"papermill": {"duration": "forever"}}
        cell = {"cell_type": "code", "source": "1", "metadata": timing}
        texts = {"list": [], "no code": {"cells": 3}, "numbers": {"cells": [cell]}}
        path.write_text(json.dumps(texts[kind]))
    assert notebook_file.executed(path) == []


def test_links_that_student_code_leaves_are_not_followed(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "measurements.jsonl").symlink_to("/etc/passwd")
    notes = contents.gather(tmp_path / "work", tmp_path / "out")
    assert notes == ["measurements.jsonl is not a plain file and was left out."]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "html",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<a href='javascript:alert(1)'>x</a>",
        "<iframe src='http://x'></iframe>",
        "<svg onload=alert(1)>",
        "<style>@import 'http://x'</style>",
        "<meta http-equiv=refresh content='0;url=http://x'>",
        "<form action=http://x><input></form>",
    ],
)
def test_a_students_html_cannot_run(tmp_path, html):
    from bs4 import BeautifulSoup

    script = "<script>alert(1)</script>"
    both = {"text/html": html, "application/javascript": "alert(1)"}
    outputs = [
        v4.new_output("display_data", data=both),
        v4.new_output("display_data", data={"image/svg+xml": "<svg onload='alert(1)'/>"}),
        v4.new_output("display_data", data={"image/png": f'">{script}'}),
        v4.new_output("stream", text=html),
        v4.new_output("error", ename=html, evalue=html, traceback=[html]),
    ]
    kernel = {"name": html, "display_name": html}
    cells = [
        v4.new_markdown_cell(html),
        v4.new_code_cell(html, outputs=outputs),
        v4.new_raw_cell(html),
    ]
    metadata = {"title": html, "widgets": {"x": html}, "kernelspec": kernel}
    (tmp_path / "a.ipynb").write_text(json.dumps(v4.new_notebook(cells=cells, metadata=metadata)))
    made = BeautifulSoup(page(tmp_path / "a.ipynb"), "html.parser")
    policy = made.head.find("meta", attrs={"http-equiv": True})
    assert policy["content"].startswith("default-src 'none'")
    assert made.title.find_previous("meta") is policy, "it comes before what it governs"
    active = ["script", "iframe", "form", "input", "object", "embed", "link", "base"]
    assert not made.find_all(active)
    for tag in made.find_all(True):
        assert not [a for a in tag.attrs if a.lower().startswith("on")], tag
        assert not str(tag.attrs.get("href", "")).lower().strip().startswith("javascript:"), tag
    equivalents = made.find_all("meta", attrs={"http-equiv": True})
    assert [m.get("http-equiv") for m in equivalents] == ["Content-Security-Policy"]


@pytest.mark.parametrize(
    "text, differences",
    [
        ("about 1,200 tokens/s, 12 ms, 2000 ms and 1.6x; 1.23e3 tok/s", []),
        (
            "I got 1,900 tokens/s",
            ["“I got 1,900 tokens/s”: no measurement of 1,900 tokens/s; the nearest is 1,234"],
        ),
        ("5 GiB", ["“5 GiB”: no measurement of 5 GiB"]),
        ("version 3, page 12, 40 %", []),
    ],
)
def test_numbers_in_words_are_held_against_units(text, differences):
    metrics = {
        "output_tokens_per_s": 1234.0,
        "ttft_ms_p50": 12.3,
        "duration_s": 2.0,
        "speedup_x": 1.62,
    }
    record = {"notebook": "n", "experiment": "e", "variant": "v", "metrics": metrics}
    assert differing_numbers("my_learnings", text, [record]) == differences


def test_a_number_without_a_unit_is_held_against_what_fills_its_blank():
    about = {"notebook": "01_review", "experiment": "optimised", "variant": "best"}
    record = about | {
        "metrics": {"output_tokens_per_s": 900.0},
        "engine_args": {"max_num_seqs": 64},
    }

    def found(line):
        return differing_numbers("my_learnings", f"## Week 3: Optimization\n{line}\n", [record])

    changed = "- Optimal max_num_seqs: 512 (my own idea)"
    assert found(changed) == [f"“{changed}”: the record says 64"]
    assert found("- Optimal max_num_seqs: 64 (64 of them were there)") == []
    assert found("- Optimal max_num_seqs: none, I left the default") == []


def test_a_table_that_was_edited_is_held_against_the_measurements(tmp_path):
    week(tmp_path, 123.4)
    records, text = load(tmp_path)[0], (tmp_path / "my_learnings_appendix.md").read_text()
    assert differing_numbers("my_learnings_appendix", text, records) == []
    assert text.count("123 tokens/s") == 1 and text.count("| 8x | 10x | 1.25 |") == 1
    edited = text.replace("123 tokens/s", "512 tokens/s")
    edited = edited.replace("| 8x | 10x | 1.25 |", "| 9.5x | 10x | 1.25 |")
    found = differing_numbers("my_learnings_appendix", edited, records)
    said = [difference.rpartition(": ")[2] for difference in found]
    assert said == [
        "no measurement of 9.5 x; the nearest is 10",
        "no measurement of 512 tokens/s; the nearest is 123",
    ]
    older = text.replace("123 tokens/s", "TTFT p50 3.25 ms")
    differing = differing_numbers("my_learnings_appendix", older, records)
    assert differing == [], "other metrics of the same record are no difference"


def test_an_unreadable_result_is_made_again(tmp_path):
    old = {"name": "a", "slug": "b", "verdict": "ran", "fingerprint": "old"}
    for data in (b"{", b"[]", b'{"name": 1}', json.dumps(old).encode()):
        (tmp_path / "result.json").write_bytes(data)
        assert results.earlier(tmp_path, "mark") is None
