"""A whole class in one command: `python -m helpers.run class SUBMISSIONS --out FOLDER`.

SUBMISSIONS holds a folder, an archive or a notebook per student; attempt.py says what is done with
each. FOLDER gets class.csv, class.html and a folder per student. A student's result is on
disk before the next begins, so the same command again goes on where a run was cut off.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

import psutil

from helpers.engine.profile import gpus
from helpers.gpu_memory import GIB
from helpers.run import course_file
from helpers.run.classroom.attempt import Class
from helpers.run.classroom.class_run import run_class
from helpers.run.classroom.cluster import on_ray
from helpers.run.classroom.grading import Grading
from helpers.run.classroom.intake import find_submissions
from helpers.run.classroom.plan import plan, throughput
from helpers.run.classroom.sandbox import Limits
from helpers.run.classroom.workers import on_this_machine
from helpers.run.course_file import UsageError, assign_parameters, find_notebooks, parameters_of

STUDENT_GIB = 2.7  # the most that all processes of one student held, on two CPU cores


def gpu_ids() -> list[str]:
    """The GPUs to hand out, as CUDA_VISIBLE_DEVICES names them; [] without a driver."""
    count = len(gpus())
    words = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    given = [word.strip() for word in words if word.strip()]
    return given[:count] if given else [str(n) for n in range(count)]


def arguments() -> argparse.ArgumentParser:
    """The options of `python -m helpers.run class`."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.run class",
        description="Run or read a class's submissions.",
        epilog="Student code runs as you. To keep it from your files and the network, use a "
        "container: docs/instructors.md has the line.",
    )

    def add(name: str, text: str, **more) -> None:
        parser.add_argument(name, help=text, **more)

    add("submissions", "folder with a folder, an archive or a notebook per student", type=Path)
    again = "folder for the results; the same again goes on where a run stopped"
    add("--out", again, type=Path, required=True)
    add("--read-only", "execute nothing, only read what was submitted", action="store_true")
    jobs = "students at a time on a machine; with GPUs at most one per GPU (default 1)"
    add("--jobs", jobs, type=int, default=1)
    cluster = "run them on this Ray cluster (`auto`: the one of this machine)"
    add("--ray", cluster, metavar="ADDRESS")
    course_file.add_arguments(parser)
    for name, what, default in (
        ("--cell-timeout", "one cell", Limits.cell_s),
        ("--notebook-timeout", "one notebook", Limits.notebook_s),
        ("--student-timeout", "one student", Limits.student_s),
    ):
        add(name, f"seconds for {what} (default {default:.0f})", type=float, metavar="S")
    for name, what, default in (
        ("--memory", "a student's processes together", Limits.memory_gib),
        ("--disk", "a student's folder", Limits.disk_gib),
        ("--file-size", "one file", Limits.file_gib),
    ):
        text = f"of {what} (default {default:g})"
        add(name, text, type=float, default=default, metavar="GIB")
    dry = "run nothing: how long these submissions, or so many, take on 1 to 32 machines"
    add("--dry-run", dry, type=int, nargs="?", const=0, metavar="STUDENTS")
    again = "one student by id or name, done again; the others' results stay"
    add("--only", again, metavar="ID")
    return parser


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError, Stopped and OSError."""
    given = arguments().parse_args(argv)
    out = given.out.expanduser().absolute()
    if not given.submissions.is_dir():
        raise UsageError(f"{given.submissions} is not a folder.")
    source = given.submissions.resolve()
    if out.resolve() == source or source in out.resolve().parents:
        raise UsageError("--out lies inside the submissions: give a folder beside them.")
    course = course_file.asked(given)
    notebooks = find_notebooks(course.notebooks)
    assign_parameters(notebooks, course.parameters)
    grading = Grading(course, notebooks)
    devices = [] if given.read_only or given.ray else gpu_ids()
    if devices and given.jobs > len(devices):
        most = f"one student per GPU at a time, so at most --jobs {len(devices)}"
        raise UsageError(f"--jobs {given.jobs} with {len(devices)} GPU: {most}.")
    if given.jobs < 1:
        raise UsageError("--jobs must be at least 1.")
    hold = int(psutil.virtual_memory().total / GIB / STUDENT_GIB) or 1
    if given.jobs > hold and not (devices or given.read_only or given.ray):
        most = f"a student's notebooks took {STUDENT_GIB:g} GiB, so this machine holds {hold}"
        raise UsageError(f"--jobs {given.jobs}: {most}.")
    limits = Limits(
        given.cell_timeout or course.cell_timeout or Limits.cell_s,
        given.notebook_timeout or Limits.notebook_s,
        given.student_timeout or course.timeout or Limits.student_s,
        given.memory,
        given.disk,
        given.file_size,
    )
    if given.dry_run is not None:
        count = given.dry_run or len(find_submissions(source)[0])
        known = throughput(out, (path.stem for path in notebooks), given.read_only)
        print(plan(count, known))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    work = Class(
        out=out,
        limits=limits,
        read_only=given.read_only,
        parameters=course.parameters,
        course={path.stem: parameters_of(path) for path in notebooks},
        at_once=given.jobs,
    )
    here = on_this_machine(given.jobs, devices)
    workers = on_ray(given.ray, given.jobs) if given.ray else here
    students = run_class(given.submissions, work, workers, grading, given.only)
    tally = Counter(student.verdict for student in students)
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(tally.items()))
    print(f"\n{len(students)} students: {verdicts}. Read: {out / 'class.html'}")
    return 1 if tally["error"] else 0
