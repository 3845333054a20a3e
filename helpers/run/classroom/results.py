"""A student's result, as it is kept on disk, and when it is out of date."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from helpers import replace_file
from helpers.run.classroom.intake import Submission, files_of

VERSION = 7  # of result.json


@dataclass
class Student:
    """A student's result as it is kept in result.json.

    verdict: ran, failed (a notebook), read (--read-only), empty (nothing to go by), refused,
    error (this machine's fault) or waiting. at_once: submissions at a time on its machine.
    """

    name: str
    slug: str
    verdict: str = "waiting"
    why: str = ""
    at_once: int = 1
    seconds: float = 0.0
    notebooks: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    content: dict = field(default_factory=dict)
    fingerprint: str = ""
    version: int = VERSION


def fingerprint(submission: Submission, options: dict) -> str:
    """Changes when the submission or the way it is run does; a resumed run then does it again."""
    digest = hashlib.sha256(json.dumps([VERSION, options], sort_keys=True, default=str).encode())
    source = Path(submission.source)
    for path in files_of(source):
        try:
            info = path.lstat()
        except OSError:
            continue
        name = os.fspath(path.relative_to(source.parent))
        digest.update(f"{name!r} {info.st_size} {info.st_mtime_ns}".encode())
    return digest.hexdigest()[:20]


def read(folder: Path) -> Student | None:
    """The result in a student's folder, if it is complete."""
    try:
        student = Student(**json.loads((folder / "result.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    complete = student.version == VERSION and student.verdict not in ("waiting", "error")
    return student if complete else None


def earlier(folder: Path, mark: str) -> Student | None:
    """The result of an earlier run, if it still holds."""
    student = read(folder)
    return student if student and student.fingerprint == mark else None


def keep(student: Student, attempt: Path, folder: Path) -> None:
    """Write result.json and move the attempt's folder to the student's, in an older one's place."""
    replace_file(attempt / "result.json", json.dumps(asdict(student)).encode())
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rename(attempt.with_name(f"{attempt.name}-before"))
    attempt.rename(folder)
    shutil.rmtree(attempt.with_name(f"{attempt.name}-before"), ignore_errors=True)
