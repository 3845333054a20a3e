"""A student's result, as it is kept on disk, and when it is out of date."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from helpers import replace_file
from helpers.run.classroom.intake import Submission

VERSION = 2  # of result.json


@dataclass
class Student:
    """A student's result as it is kept in result.json.

    verdict: ran, failed (a notebook), read (--read-only), empty (nothing to go by), refused,
    error (this machine's fault) or waiting.
    """

    name: str
    slug: str
    verdict: str = "waiting"
    why: str = ""
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
    paths = [source]
    if source.is_dir() and not source.is_symlink():
        files = (Path(folder) / name for folder, _, names in os.walk(source) for name in names)
        paths = sorted(files)[:5000]
    for path in paths:
        try:
            info = path.lstat()
        except OSError:
            continue
        name = os.fspath(path.relative_to(source.parent))
        digest.update(f"{name!r} {info.st_size} {info.st_mtime_ns}".encode())
    return digest.hexdigest()[:20]


def earlier(folder: Path, mark: str) -> Student | None:
    """The result of an earlier run in a student's folder, if it is complete and still holds."""
    try:
        student = Student(**json.loads((folder / "result.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    complete = student.version == VERSION and student.verdict not in ("waiting", "error")
    return student if complete and student.fingerprint == mark else None


def keep(student: Student, folder: Path) -> None:
    """Write result.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "result.json", json.dumps(asdict(student)).encode())
