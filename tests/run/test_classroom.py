"""helpers.run class: thirty intake with a dozen kinds of damage, thirty rows, nothing lost, nothing left running."""

import csv
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from helpers.results import export
from helpers.results.store import Results, load
from helpers.run import notebook_file
from helpers.run.classroom import contents, intake, pages, results, safe_html
from helpers.run.classroom.intake import Refused, find_submissions, take_in
from tests.run.test_runner import SAVE, no_process_with, notebook

MARK = f"class-{os.getpid()}"
SECRET = "INSTRUCTORS_SECRET_TOKEN"


def week(
    folder: Path, throughput: float, insight: str = "Batching shares the weights.", edit=None
) -> None:
    """What a student hands in besides notebooks: measurements and an exported document."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Results("01_review", folder)
    store.save(
        "baseline", "one_at_a_time", {"output_tokens_per_s": throughput, "ttft_ms_p50": 3.25}
    )
    store.save(
        "optimised",
        "best",
        {"output_tokens_per_s": 10 * throughput, "improvement_x": 10.0},
        {"max_num_seqs": 64},
    )
    store.save(
        "prediction",
        "improvement_x",
        {"predicted": 8.0, "measured": 10.0, "ratio": 1.25},
        unit="x",
        source="student",
        residual="Steps cost more.",
    )
    store.save("answer", "insight_1", {}, text=insight, source="typed")
    export(folder)
    if edit:
        document = folder / "my_learnings.md"
        document.write_text(edit(document.read_text()))


def quiz_answers(folder: Path, student: str, wrong: int) -> None:
    from helpers.lessons.reading_notes import quiz

    questions = quiz.make_quiz(student)
    answers = {q.id: q.answer for q in questions}
    for question in questions[:wrong]:
        answers[question.id] = "no" if question.choices else -12345.0
    Results("03_reading_notes", folder).save(
        "self_check",
        "score",
        {"correct": len(questions), "questions": len(questions)},
        answers=answers,
        student=student,
    )


def zip_of(folder: Path, target: Path, extra=()) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"homework/{path.relative_to(folder)}")
        for name, data in extra:
            archive.writestr(name, data)


def generate(root: Path, scratch: Path) -> dict[str, str]:
    """Thirty intake; returns {name as shown: verdict expected}."""
    root.mkdir()
    good = SAVE + 'store.save("baseline", "one_at_a_time", {"output_tokens_per_s": 100.0})'
    expected = {}

    def folder(name, verdict):
        expected[name] = verdict
        (root / name).mkdir()
        return root / name

    # ---- those that run, with names of every sort
    for n, name in enumerate(["Ana García", "李小龙", 'O\'Brien "Bob"', "=cmd|' C calc'!A0"]):
        place = folder(name, "ran")
        notebook(place, "01_review", good)
        week(place, 100.0 + n, insight=f"Insight of number {n}: <script>alert({n})</script>")
        quiz_answers(place, name, wrong=n)
    # ---- documents and measurements only: nothing to run
    for n in range(7):
        name = f"reader {n}"
        edit = (
            (
                lambda text: text.replace(
                    "Initial throughput: 200 ", "Initial throughput: 999 "
                ).replace("2. ___", "2. TTFT fell to 77 ms, and 10x is real")
            )
            if n == 0
            else None
        )
        week(folder(name, "read"), 200.0 + n, insight=f"Same insight {n}", edit=edit)
    (root / "reader 6" / "measurements.jsonl").write_bytes(
        (root / "reader 0" / "measurements.jsonl").read_bytes() + b'{"half": \n\xff\xfe\n'
    )
    # ---- those that fail while running
    notebook(folder("syntax error", "failed"), "01_review", "def broken(:\n  pass")
    place = folder("endless loop", "failed")
    notebook(place, "01_review", "while True: pass")
    week(place, 300.0)
    notebook(
        folder("killed kernel", "failed"),
        "01_review",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    )
    notebook(
        folder("kills all above", "failed"),
        "01_review",
        f"import psutil, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(900)  # {MARK}'], start_new_session=True)\n"
        "for process in reversed(psutil.Process().parents()[:2]):   # papermill and its supervisor\n    process.kill()",
    )
    notebook(
        folder("eats memory", "failed"),
        "01_review",
        "import time\nblocks = []\nwhile True:\n    blocks.append(bytearray(128 * 2**20)); time.sleep(0.03)",
    )
    notebook(
        folder("fills the disk", "failed"),
        "01_review",
        "with open('big', 'wb') as f:\n    while True: f.write(b'x' * 2**22)",
    )
    notebook(
        folder("leaves processes", "ran"),
        "01_review",
        f"import os, subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(900)  # {MARK}'], start_new_session=True)\n"
        f"assert {SECRET!r} not in os.environ and os.environ['HOME'] != {os.environ.get('HOME', '')!r}",
    )
    notebook(
        folder("another version", "ran"),
        "01_introduction",
        "print('an older notebook')",
        parameters=None,
    )
    place = folder("not a notebook", "failed")
    (place / "01_review.ipynb").write_text('{"cells": [')
    place = folder("format three", "failed")
    (place / "01_review.ipynb").write_text(
        '{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}'
    )
    folder("empty", "empty")
    # ---- archives
    week(scratch / "zipped", 400.0)
    notebook(scratch / "zipped", "01_review", good)
    zip_of(scratch / "zipped", root / "Zoë (zip).zip")
    expected["Zoë (zip)"] = "ran"
    week(scratch / "tarred", 500.0)
    with tarfile.open(root / "tarred.tar.gz", "w:gz") as archive:
        archive.add(scratch / "tarred", "work")
    expected["tarred"] = "read"
    (root / "cut off.zip").write_bytes((root / "Zoë (zip).zip").read_bytes()[:300])
    zip_of(scratch / "zipped", root / "climbs out.zip", [("../../escaped.txt", "x")])
    with zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("zeros.bin", "w", force_zip64=True) as stream:
            for _ in range(110):
                stream.write(bytes(2**20))
    with tarfile.open(root / "hundred gigabytes.tar", "w") as archive:
        info = tarfile.TarInfo("huge.bin")
        info.size = 100 * 2**30
        archive.fileobj.write(
            info.tobuf()
        )  # the header alone: no hundred gigabytes are needed to claim them
    with tarfile.open(root / "tar with a link.tar", "w") as archive:
        info = tarfile.TarInfo("my_learnings.md")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    for name in ("cut off", "climbs out", "bomb", "hundred gigabytes", "tar with a link"):
        expected[name] = "refused"
    # ---- links
    (folder("link inside", "refused") / "measurements.jsonl").symlink_to("/etc/passwd")
    return expected


ARGUMENTS = (
    "--notebooks",
    "01",
    "--cell-timeout",
    "15",
    "--memory",
    "1",
    "--file-size",
    "0.2",
    "--jobs",
    "3",
    "--student-timeout",
    "120",
)


def run_class(root, out, *more, **popen):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "helpers.run",
            "class",
            str(root),
            "--out",
            str(out),
            *ARGUMENTS,
            *more,
        ],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {SECRET: "x"},
        **popen,
    )


@pytest.fixture(scope="module")
def the_class(tmp_path_factory):
    base = tmp_path_factory.mktemp("class")
    root, out = base / "submissions {x} y", base / "out {0} z"
    expected = generate(root, base / "scratch")
    before = {
        p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and not p.is_symlink()
    }
    done = run_class(root, out)
    rows = (
        list(csv.DictReader((out / "class.csv").read_text(encoding="utf-8-sig").splitlines()))
        if (out / "class.csv").exists()
        else []
    )
    return expected, root, out, done, {r["student"]: r for r in rows}, before


def result(the_class, name):
    out = the_class[2]
    found = [json.loads(p.read_text()) for p in out.glob("students/*/result.json")]
    return next(r for r in found if r["name"] == name)


def test_thirty_rows_with_the_right_verdicts(the_class):
    expected, _, _, done, rows, _ = the_class
    assert len(expected) == 30 and done.returncode == 0, done.stdout + done.stderr
    got = {
        name.lstrip("'") if name.startswith("'=") else name: row["verdict"]
        for name, row in rows.items()
    }
    assert got == expected, {
        name: (got.get(name), verdict, rows.get(name, {}).get("why"))
        for name, verdict in expected.items()
        if got.get(name) != verdict
    }


@pytest.mark.parametrize(
    "name, reason",
    [
        ("syntax error", "SyntaxError"),
        ("endless loop", "CellTimeoutError"),
        ("killed kernel", "DeadKernelError"),
        ("kills all above", "ProcessDied"),
        ("eats memory", "GiB of memory"),
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
    assert {
        p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and not p.is_symlink()
    } == before
    assert not list(out.glob("students/*/sandbox")), (
        "the folders in which student code ran are removed"
    )


def test_no_process_is_left(the_class):
    no_process_with(MARK)


def test_what_a_failed_student_wrote_is_not_lost(the_class):
    row = the_class[4]["endless loop"]
    assert (
        row["insight_1"] == "Batching shares the weights."
        and row["measurements"] == "4"
        and row["blanks_measured"] not in ("", "0")
    )


def test_numbers_that_differ_from_the_measurements(the_class):
    content = result(the_class, "reader 0")["content"]
    assert content["differ"] == [
        "Initial throughput: the text says 999, the measurement is 200",
        "“2. TTFT fell to 77 ms, and 10x is real”: no measurement of 77 ms; the nearest is 3.25",
    ]
    assert result(the_class, "reader 1")["content"]["differ"] == []


def test_the_self_check_is_graded_anew_whatever_the_file_claims(the_class):
    check = result(the_class, 'O\'Brien "Bob"')["content"]["self_check"]
    assert (
        check["questions"] - check["correct"] == 2 == len(check["wrong"])
        and "the file claims" in check["note"]
    )


def test_predictions_checklist_and_damaged_lines(the_class):
    content = result(the_class, "reader 6")["content"]
    assert (
        content["damaged_lines"] == 2
        and content["predictions"][0]["ratio"] == 1.25
        and content["predictions"][0]["by"] == "student"
    )
    assert the_class[4]["reader 6"]["shared_with"] == "reader 0", (
        "the same record ids in two intake"
    )


def test_measured_here_is_kept_apart_from_what_was_submitted(the_class):
    out = the_class[2]
    folder = out / "students" / result(the_class, "Ana García")["slug"]
    assert load(folder / "measured_here")[0][0]["metrics"] == {"output_tokens_per_s": 100.0}
    assert "Initial throughput: 100 " in (folder / "measured_here" / "my_learnings.md").read_text()
    assert "Initial throughput: 100 " in (folder / "export" / "my_learnings.md").read_text()


def test_the_page_shows_everybody_and_runs_nothing(the_class):
    expected, _, out, _, _, _ = the_class
    html = (out / "class.html").read_text()
    assert (
        "default-src 'none'" in html
        and "<script" not in html.lower()
        and "&lt;script&gt;alert(1)" in html
    )
    for name in expected:
        assert pages.jinja2.filters.escape(name) in html, name
    for link in re.findall(r'href="(students/[^"]+)"', html):
        assert (out / __import__("urllib.parse").parse.unquote(link)).is_file(), (
            f"a dead link: {link}"
        )
    assert html.count('.html" rel="noopener') >= 10


def test_a_cell_of_the_csv_is_never_a_formula(the_class):
    assert "'=cmd|' C calc'!A0" in the_class[4]
    assert [pages.csv_cell(v) for v in ("=1", "+1", "-1", "@x", "a", -1.5, None)] == [
        "'=1",
        "'+1",
        "'-1",
        "'@x",
        "a",
        "-1.5",
        "",
    ]


def test_the_same_command_again_does_nothing_twice_and_a_new_submission_only(the_class, tmp_path):
    expected, root, out, _, _, _ = the_class
    before = {p: p.stat().st_mtime_ns for p in out.glob("students/*/result.json")}
    week(root / "zz late", 1.0)
    try:
        began = time.monotonic()
        done = run_class(root, out)
        assert done.returncode == 0 and "31 students" in done.stdout, done.stdout + done.stderr
        after = {p: p.stat().st_mtime_ns for p in out.glob("students/*/result.json")}
        assert (
            {p: after[p] for p in before} == before
            and len(after) == 31
            and time.monotonic() - began < 60
        )
    finally:
        __import__("shutil").rmtree(root / "zz late")


def sleeping(out: Path) -> bool:
    """Whether a student's notebook has come to its last cell."""
    running = [notebook_file.executed(p) for p in out.glob("students/*/sandbox/01.ipynb")]
    return any(cells and cells[-1].started for cells in running)


def test_a_class_that_is_stopped_goes_on_from_there(tmp_path):
    root = tmp_path / "s"
    week(root / "a", 1.0)
    place = root / "b"
    notebook(
        place,
        "01_review",
        f"import time\ntime.sleep(2 if __import__('pathlib').Path({str(tmp_path / 'go')!r}).exists() else 600)  # {MARK}-stop",
    )
    arguments = [
        sys.executable,
        "-m",
        "helpers.run",
        "class",
        str(root),
        "--out",
        str(tmp_path / "o"),
        "--notebooks",
        "01",
    ]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TEST_MARKER": MARK + "-stop"},
    )
    deadline = time.monotonic() + 90
    while not sleeping(tmp_path / "o") and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from here" in err, out + err
    no_process_with(MARK + "-stop")
    rows = list(
        csv.DictReader((tmp_path / "o" / "class.csv").read_text(encoding="utf-8-sig").splitlines())
    )
    assert [(r["student"], r["verdict"]) for r in rows] == [("a", "read"), ("b", "waiting")]
    (tmp_path / "go").touch()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    rows = list(
        csv.DictReader((tmp_path / "o" / "class.csv").read_text(encoding="utf-8-sig").splitlines())
    )
    assert [(r["student"], r["verdict"]) for r in rows] == [("a", "read"), ("b", "ran")], (
        done.stdout + done.stderr
    )


def test_read_only_executes_nothing(tmp_path):
    import nbformat

    path = notebook(tmp_path / "s" / "a", "01_review", "open('/tmp/must-not-exist', 'w')", "1/0")
    book = nbformat.read(path, 4)
    for n, cell in enumerate(c for c in book.cells if c.cell_type == "code"):
        cell.execution_count = n + 1
    book.cells[-1].outputs = [
        nbformat.v4.new_output(
            "error", ename="ZeroDivisionError", evalue="division by zero", traceback=["x"]
        )
    ]
    nbformat.write(book, path)
    notebook(tmp_path / "s" / "b", "01_review", "1")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "helpers.run",
            "class",
            str(tmp_path / "s"),
            "--out",
            str(tmp_path / "o"),
            "--read-only",
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    rows = list(
        csv.DictReader((tmp_path / "o" / "class.csv").read_text(encoding="utf-8-sig").splitlines())
    )
    assert [r["verdict"] for r in rows] == ["read", "read"], done.stdout + done.stderr
    assert (
        "cell 3 of 3: ZeroDivisionError" in rows[0]["why"]
        and "not run" in (tmp_path / "o" / "class.html").read_text()
    )
    assert not Path("/tmp/must-not-exist").exists()


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["gone"], "is not a folder"),
        (["."], "holds|There is no|lies inside"),
        (["s", "-p", "NO_SUCH", "1"], "has a parameter 'NO_SUCH'"),
        (["s", "--jobs", "0"], "at least 1"),
    ],
)
def test_wrong_usage(tmp_path, arguments, reason):
    week(tmp_path / "s" / "a", 1.0)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "helpers.run",
            "class",
            *arguments,
            "--out",
            str(tmp_path / "s" / "o" if arguments == ["."] else tmp_path / "o"),
            "--notebooks",
            "01",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and re.search(reason, done.stderr), done.stderr


# ---------------------------------------------------------------- the pieces


def test_names():
    assert intake.slug("Ana") == intake.slug("Ana") != intake.slug("ana")
    for name in ("../x", "a b", "李", "'; rm -rf /", "x" * 300, "\u202etxt.exe", "a\nb"):
        assert re.fullmatch(r"[A-Za-z0-9_]+-[0-9a-f]{8}", intake.slug(name)), name
    assert "\u202e" not in intake.display("a\u202eb") and intake.display(
        os.fsdecode(b"\xff\xfea")
    ).endswith("a")


def test_the_same_name_twice_and_what_is_no_submission(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann.zip").write_bytes(b"")
    (tmp_path / "grades.xlsx").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "linked").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    found, notes = find_submissions(tmp_path)
    assert [(s.name, bool(s.refused)) for s in found] == [
        ("ann", False),
        ("ann (ann.zip)", False),
        ("linked", True),
        ("pipe", True),
    ]
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
    with zipfile.ZipFile(tmp_path / "liar.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.bin", bytes(3 * 2**20))
    data = (tmp_path / "liar.zip").read_bytes()
    (tmp_path / "liar.zip").write_bytes(
        data.replace(struct.pack("<I", 3 * 2**20), struct.pack("<I", 100))
    )
    with pytest.raises(Refused):
        take_in(tmp_path / "liar.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zip_links_special_files_duplicates_and_passwords(tmp_path):
    def make(name, *members):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, mode in members:
                info = zipfile.ZipInfo(member)
                info.external_attr = mode << 16
                archive.writestr(info, "/etc/passwd")
        return tmp_path / name

    for n, (archive, reason) in enumerate(
        [
            (make("a.zip", ("x", 0o120777)), "is a link"),
            (make("b.zip", ("x", 0o010644)), "neither a file"),
            (make("c.zip", ("x", 0o100644), ("./x", 0o100644)), "there twice"),
            (make("d.zip", ("x", 0o100644), ("x/y", 0o100644)), "there twice"),
        ]
    ):
        with pytest.raises(Refused, match=reason):
            take_in(archive, tmp_path / str(n))


def test_folders_with_links_inside_are_taken_without_them(tmp_path):
    place = tmp_path / "s" / "notebooks"
    notebook(place, "01_review", "1")
    (place / "again.ipynb").symlink_to("01_review.ipynb")
    (place / ".env").write_text("secret")
    os.mkfifo(place / "pipe")
    taken = take_in(tmp_path / "s", tmp_path / "out")
    assert (
        taken["root"] == "notebooks"
        and list(taken["notebooks"]) == ["01_review.ipynb"]
        and len(taken["notes"]) == 2
    )
    assert taken["notebooks"]["01_review.ipynb"]["parameters"] == [
        "NOTEBOOK",
        "RESULTS_DIR",
        "SEED",
        "SIZES",
    ]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "01_review.ipynb"
    ]


def test_links_that_student_code_leaves_are_not_followed(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "measurements.jsonl").symlink_to("/etc/passwd")
    notes = contents.gather(tmp_path / "work", tmp_path / "out")
    assert notes == ["measurements.jsonl is not a plain file and was left out."] and not list(
        (tmp_path / "out").iterdir()
    )


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
    import nbformat

    outputs = [
        nbformat.v4.new_output(
            "display_data", data={"text/html": html, "application/javascript": "alert(1)"}
        ),
        nbformat.v4.new_output("display_data", data={"image/svg+xml": "<svg onload='alert(1)'/>"}),
        nbformat.v4.new_output("display_data", data={"image/png": '"><script>alert(1)</script>'}),
        nbformat.v4.new_output("stream", text=html),
        nbformat.v4.new_output("error", ename=html, evalue=html, traceback=[html]),
    ]
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(html),
            nbformat.v4.new_code_cell(html, outputs=outputs),
            nbformat.v4.new_raw_cell(html),
        ],
        metadata={
            "title": html,
            "widgets": {"x": html},
            "kernelspec": {"name": html, "display_name": html},
        },
    )
    nbformat.write(book, tmp_path / "a.ipynb")
    (tmp_path / "list.json").write_text(
        json.dumps([[str(tmp_path / "a.ipynb"), str(tmp_path / "a.html")]])
    )
    assert safe_html.main(str(tmp_path / "list.json")) == 0
    from bs4 import BeautifulSoup

    page = BeautifulSoup((tmp_path / "a.html").read_text(), "html.parser")
    assert page.head.find("meta")["content"].startswith("default-src 'none'"), (
        "the policy must come first"
    )
    assert not page.find_all(
        ["script", "iframe", "form", "input", "object", "embed", "link", "base"]
    )
    for tag in page.find_all(True):
        assert not [a for a in tag.attrs if a.lower().startswith("on")], tag
        assert not str(tag.attrs.get("href", "")).lower().strip().startswith("javascript:"), tag
    assert [m.get("http-equiv") for m in page.find_all("meta", attrs={"http-equiv": True})] == [
        "Content-Security-Policy"
    ]


def test_numbers_in_words_are_held_against_units():
    records = [
        {
            "notebook": "n",
            "experiment": "e",
            "variant": "v",
            "metrics": {
                "output_tokens_per_s": 1234.0,
                "ttft_ms_p50": 12.3,
                "duration_s": 2.0,
                "speedup_x": 1.62,
            },
        }
    ]
    ask = lambda text: contents.differing_numbers("my_learnings", text, records)
    assert ask("about 1,200 tokens/s, 12 ms, 2000 ms and 1.6x; 1.23e3 tok/s") == []
    assert ask("I got 1,900 tokens/s") == [
        "“I got 1,900 tokens/s”: no measurement of 1,900 tokens/s; the nearest is 1,234"
    ]
    assert (
        ask("5 GiB") == ["“5 GiB”: no measurement of 5 GiB"]
        and ask("version 3, page 12, 40 %") == []
    )


def test_a_table_row_is_held_against_its_own_record(tmp_path):
    week(tmp_path, 123.4)
    records, text = load(tmp_path)[0], (tmp_path / "my_learnings.md").read_text()
    assert contents.differing_numbers("my_learnings", text, records) == []
    assert text.count("output 123.4 tokens/s") == 1 and text.count("| 8x | 10x | 1.25 |") == 1
    edited = text.replace("output 123.4 tokens/s", "output 512 tokens/s").replace(
        "| 8x | 10x | 1.25 |", "| 9.5x | 10x | 1.25 |"
    )
    assert contents.differing_numbers("my_learnings", edited, records) == [
        "baseline, one at a time: the text says 512; the nearest of its measurements is 123.4",
        "improvement x: the text says 9.5; the nearest of its measurements is 10",
    ]
    older = text.replace("output 123.4 tokens/s, TTFT p50 3.25 ms", "TTFT p50 3.25 ms")
    assert contents.differing_numbers("my_learnings", older, records) == [], (
        "other metrics of the same record are no difference"
    )


def test_an_unreadable_result_is_made_again(tmp_path):
    for data in (
        b"{",
        b"[]",
        b'{"name": 1}',
        json.dumps({"name": "a", "slug": "b", "verdict": "ran", "fingerprint": "old"}).encode(),
    ):
        (tmp_path / "result.json").write_bytes(data)
        assert results.earlier(tmp_path, "mark") is None
