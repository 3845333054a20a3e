"""What an instructor gets of a class: points, answers side by side, flags, pages to hand back."""

import csv
import json
import os
from datetime import UTC, datetime

import pytest

from helpers import REPO
from helpers.lessons.reading_notes.questions import make_quiz
from helpers.results import Results, store
from helpers.run.classroom import contents, flags, grading, pages
from helpers.run.classroom.grading import Grading
from helpers.run.classroom.intake import find_submissions
from helpers.run.course_file import UsageError, find_notebooks, read_course
from tests.run.tools import run

H100 = {"gpu": "NVIDIA H100 80GB HBM3", "model": "Qwen2.5-7B-Instruct", "cores": 16}
CPU = {"gpu": None, "model": "tiny Qwen2 (4.5M)", "cores": 2}
RUBRIC = {name: 10 for name in grading.CRITERIA}
TYPED = "<b>Batching</b> shares weights.\n$x$ and *more*"


def record(metrics, place=CPU, **more):
    about = {"id": "0123456789ab", "notebook": "01_review", "experiment": "baseline"}
    return about | {"variant": "x", "metrics": metrics, "provenance": place} | more


def course(tmp_path, **keys):
    path = tmp_path / "course.yaml"
    path.write_text(json.dumps(keys))
    return read_course(path)


def read(folder):
    """A student's result as reading a folder of measurements gives it."""
    about = {"verdict": "read", "why": "", "seconds": 1.0, "notebooks": [], "notes": []}
    name = folder.name
    content = contents.assess(folder, folder / "export", folder / "measured_here")
    return about | {"at_once": 1, "name": name, "slug": name, "content": content}


@pytest.fixture
def pair(tmp_path):
    """(submissions, results) of one who worked and one who did not."""
    for name in ("ann_17", "bob_18"):
        (tmp_path / "s" / name).mkdir(parents=True)
    work = Results("01_review", tmp_path / "s" / "ann_17")
    about = {"source": "typed", "question": "What have <you> learned?"}
    work.save("answer", "insight_1", {}, text=TYPED, **about)
    guess = {"predicted": 8.0, "measured": 10.0}
    about = {"unit": "x", "source": "student", "residual": "Steps cost more."}
    work.save("prediction", "improvement_x", guess, **about)
    work.save("answer", "tp_reason", {}, text="It fits.", source="planner")
    work.save("prediction", "weights_gib", guess, source="formula", residual="Biases are left out.")
    work.save("puzzle", "blocks_held", {}, title="Blocks", solved=True, source="evidence")
    found, _ = find_submissions(tmp_path / "s")
    return found, [read(tmp_path / "s" / name) for name in ("ann_17", "bob_18")]


def test_points_follow_the_rubric_and_every_criterion_counts(pair, tmp_path):
    given = course(tmp_path, rubric=RUBRIC)
    marks = {m.criterion: m for m in Grading(given, find_notebooks(["01"])).marks(pair[1][0])}
    assert marks.keys() == grading.CRITERIA.keys()
    assert (marks["insights"].done, marks["insights"].points) == (1, 3.33)
    assert (marks["puzzles"].done, marks["puzzles"].of, marks["puzzles"].points) == (1, 3, 3.33)
    assert (marks["predictions"].done, marks["predictions"].of) == (1, 3)
    assert (marks["self_check"].done, marks["self_check"].of) == (0, len(make_quiz("")))
    assert all(0 <= mark.points <= mark.most for mark in marks.values())
    refused = pair[1][0] | {"verdict": "refused"}
    assert Grading(given, find_notebooks(["01"])).marks(refused) == []


def test_a_puzzle_that_nothing_ran_again_counts_and_is_said_to_be_as_recorded(pair, tmp_path):
    found, students = pair
    pages.write(tmp_path, students, [], read_only=True)
    pages.write_reports(tmp_path, found, students, Grading(course(tmp_path), find_notebooks()))
    assert "1, 1 as recorded" in (tmp_path / "class.html").read_text()
    said = "Not run again, counted as your file records them: 1."
    assert said in pages.feedback(tmp_path, students[0]).read_text()
    solved = Results("01_review", tmp_path / "other")
    solved.save("puzzle", "blocks_held", {}, title="Blocks", solved=True, source="evidence")
    records = store.load(tmp_path / "other" / store.FILE_NAME)[0]
    failed = [record | {"solved": False} for record in records]
    assert contents.puzzles(records, []) == (["Blocks"], [], ["Blocks"])
    assert contents.puzzles(records, records) == (["Blocks"], [], [])
    assert contents.puzzles(records, failed) == ([], ["Blocks"], [])


def test_no_forged_number_of_things_gives_more_than_the_points(pair, tmp_path):
    student = pair[1][0]
    student["content"]["puzzles"] = [str(n) for n in range(99)]
    marks = Grading(course(tmp_path, rubric={"puzzles": 10}), find_notebooks()).marks(student)
    assert marks[0].points == 10 and marks[0].done == marks[0].of


@pytest.mark.parametrize(
    "keys, reason",
    [
        ({"rubric": {"style": 3}}, "criteria can be notebooks"),
        ({"rubric": {"puzzles": "ten"}}, "give a number of points"),
        ({"rubric": {"puzzles": -1}}, "give a number of points"),
        ({"deadline": "soon"}, "write 2026-12-04 23:59"),
        ({"names": "("}, "no regular expression"),
        ({"names": "a(b)"}, "needs a group"),
    ],
)
def test_a_course_that_cannot_be_followed_is_refused(tmp_path, keys, reason):
    with pytest.raises(UsageError, match=reason):
        Grading(course(tmp_path, **keys), find_notebooks())


def test_grades_have_the_columns_of_the_course_and_say_what_is_late(pair, tmp_path):
    given = course(
        tmp_path, rubric={"insights": 6}, deadline="2026-12-04", names=r"(?P<name>.+)_(?P<id>\d+)"
    )
    for name, day in (("ann_17", 4), ("bob_18", 6)):
        time = datetime(2026, 12, day, 12, tzinfo=UTC).timestamp()
        folder = tmp_path / "s" / name
        (folder / "my_learnings.md").touch()
        for path in folder.rglob("*"):
            os.utime(path, (time, time))
    found, _ = find_submissions(tmp_path / "s", given.names)
    pages.write_reports(tmp_path, found, pair[1], Grading(given, find_notebooks()))
    rows = list(csv.reader((tmp_path / "grades.csv").read_text("utf-8-sig").splitlines()))
    assert rows == [
        ["id", "name", "status", "handed_in_utc", "late", "insights", "points", "of"],
        ["17", "ann", "read", "2026-12-04 12:00", "no", "2", "2", "6"],
        ["18", "bob", "read", "2026-12-06 12:00", "yes", "0", "0", "6"],
    ]


def test_the_pages_show_what_was_typed_as_it_was_typed_and_no_other_student(pair, tmp_path):
    found, students = pair
    pages.write_reports(tmp_path, found, students, Grading(course(tmp_path), find_notebooks()))
    shown = "&lt;b&gt;Batching&lt;/b&gt; shares weights.<br><span>$</span>x<span>$</span>"
    answers = (tmp_path / "answers.html").read_text()
    page = pages.feedback(tmp_path, students[0]).read_text()
    assert "Biases are left out." not in answers, "a formula's sentence is no student's answer"
    for html in (answers, page):
        assert "It fits." not in html, "the planner's words are no student's answer"
        assert shown in html and "What have &lt;you&gt; learned?" in html
        assert "Steps cost more." in html and "default-src 'none'" in html
    assert "Blocks" in page and "@media print" in page and "bob" not in page
    assert 'href="feedback/ann_17.html"' in answers


@pytest.mark.parametrize(
    "cell", ["=1", " =1", "+1", "-1", "@x", "\t=1", "\uff1d1", "a;=1", 'a; "=1', "\n@x"]
)
def test_no_cell_is_a_formula_whatever_separates_them(tmp_path, cell):
    grading.write_csv(tmp_path / "a.csv", [{"name": cell}])
    text = (tmp_path / "a.csv").read_text("utf-8-sig")
    for separator in ",;\t":
        for row in csv.reader(text.splitlines(), delimiter=separator):
            assert not any(one.strip(' "')[:1] in "=+-@\uff1d" for one in row[1:]), row
            assert row[0].lstrip()[:1] not in "=+-@\uff1d", row


@pytest.mark.parametrize(
    "metrics, place, said",
    [
        ({"ttft_ms_p50": -3.0}, CPU, "is negative"),
        ({"acceptance_rate": 1.4}, CPU, "more than all"),
        ({"itl_ms_p50": 9.0, "itl_ms_p99": 4.0}, CPU, "itl_ms_p50 is above itl_ms_p99"),
        ({"ttft_ms_p50": 9.0, "e2e_ms_p50": 4.0}, CPU, "ttft_ms_p50 is above e2e_ms_p50"),
        ({"output_tokens_per_s": 900.0, "duration_s": 2.0, "output_tokens": 100}, CPU, "not 100"),
        ({"output_tokens_per_s": 9e9}, CPU, "2 CPU cores"),
        ({"output_tokens_per_s": 9e5}, H100, "cannot compute more than"),
        ({"tpot_ms_p50": 2.0}, H100, "to read the weights once"),
    ],
)
def test_numbers_that_cannot_be_are_shown_with_the_limit(metrics, place, said):
    found = flags.impossible([record(metrics, place)], [])
    assert len(found) == 1 and said in found[0], found


def test_what_was_measured_is_possible():
    path = flags.REFERENCE / "h100" / store.FILE_NAME
    records, problems = store.load(path)
    lessons = [r for r in records if r["notebook"] != "benchmarks"]
    assert len(lessons) > 100 and flags.impossible(lessons, problems) == []
    speculative = record(
        {"tpot_ms_p50": 2.0}, H100, engine_args={"speculative_config": {"method": "ngram"}}
    )
    assert flags.impossible([speculative], []) == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_a_number_that_is_none_is_flagged_and_costs_nothing_else(tmp_path, value):
    line = json.dumps(record({"ttft_ms_p50": 3.0}))
    forged = line.replace("3.0", value)
    (tmp_path / store.FILE_NAME).write_text(f"{line}\n{forged}\n")
    content = contents.assess(tmp_path, tmp_path / "export", tmp_path)
    assert content["records"] == 1 and content["damaged_lines"] == 1
    assert "line 2" in content["impossible"][0] and "finite number" in content["impossible"][0]


def test_records_without_an_id_are_shown():
    assert "no id" in flags.impossible([record({"ttft_ms_p50": 3.0}, id="mine")], [])[0]


def student(slug, numbers, ids=("own",)):
    return {
        "slug": slug,
        "name": slug,
        "content": {"numbers": numbers, "ids": [f"{slug}-{i}" if i == "own" else i for i in ids]},
    }


def test_numbers_of_two_students_that_are_too_alike():
    own = {f"m{n}": 1.234567891 * 1.7**n for n in range(10)}
    noisy = {key: value * (1 + 0.01 * (n % 3)) for n, (key, value) in enumerate(own.items())}
    scaled = {key: value * 1.05 for key, value in own.items()}
    one_copied = {"m3": own["m3"], "m4": 3.3}
    found = flags.alike(
        [
            student("a", own, ["x"]),
            student("noisy", noisy),
            student("scaled", scaled),
            student("copied", one_copied),
            student("ids", {"other": 1.5}, ["x"]),
        ]
    )
    assert "in the same ratio, 1.05" in found["a"]["scaled"]
    assert "equal to the last digit, such as m3" in found["copied"]["a"]
    assert found["ids"] == {"a": "1 records with the same id"}
    assert "scaled" not in found.get("noisy", {})


def test_what_is_copied_from_the_recorded_run_is_found():
    records = store.load(flags.REFERENCE / "h100" / store.FILE_NAME)[0]
    copied = student("a", flags.signature(records[:60]))
    assert list(flags.alike([copied])["a"]) == ["the workbook's recorded run (h100)"]


def test_the_course_file_that_ships_can_be_followed():
    given = read_course(REPO / "templates" / "course.yaml")
    assert Grading(given, find_notebooks(given.notebooks)).rubric


def test_the_command_gives_points_and_does_one_student_again(pair, tmp_path):
    given = {"rubric": {"insights": 3}, "deadline": "2020-01-01", "names": r".+_(?P<id>\d+)"}
    (tmp_path / "course.yaml").write_text(json.dumps(given))
    command = ["class", tmp_path / "s", "--out", tmp_path / "out", "--read-only", "--parameters"]
    command += [tmp_path / "course.yaml"]

    def grades():
        text = (tmp_path / "out" / "grades.csv").read_text(encoding="utf-8-sig")
        return {row["id"]: row for row in csv.DictReader(text.splitlines())}

    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    first = grades()
    assert (first["17"]["insights"], first["18"]["insights"]) == ("1", "0")
    assert first["17"]["late"] == "yes"
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/students/*/result.json")}
    done = run(*command, "--only", "17")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/students/*/result.json")}
    assert [p.parent.name[:3] for p in before if after[p] != before[p]] == ["ann"]
    assert grades() == first
    done = run(*command, "--only", "nobody")
    assert done.returncode == 2 and "nobody" in done.stderr
