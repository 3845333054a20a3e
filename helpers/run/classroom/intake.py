"""Take in one student's submission: a folder, an archive or a single notebook, without trusting it.

    python -m helpers.run.classroom.intake SOURCE DESTINATION RESULT.json

helpers/run/classroom/attempt.py starts this for each submission, in a process with limits on
memory, file size and time, because an archive can be built to exhaust all three. Only plain files
are copied. A submission is refused as a whole when it tries to reach outside its folder or to fill
the disk. (tarfile's data filter would let an absolute path or an inner link pass; here neither
does, in zip and tar alike.)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import sys
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from helpers.run import notebook_file
from helpers.run.job import limit_resources

SOLUTIONS = "solutions.ipynb"  # of the code puzzles: the workbook's, not the student's
MIB = 2**20
MAX_TOTAL = 500 * MIB  # of a submission, unpacked
MAX_FILE = 100 * MIB
MAX_ARCHIVE = 300 * MIB  # as it comes
MAX_FILES = 5000
SECONDS = 300  # of processor time
LIMITS = {"AS": 4096 * MIB, "FSIZE": MAX_FILE + MIB, "CORE": 0, "CPU": SECONDS}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SKIPPED = {"__MACOSX", ".DS_Store", ".ipynb_checkpoints", "__pycache__", ".git"}
SKIPPED |= {".venv", "venv", "node_modules", ".cache"}
# Left by the workbook's own export; it tells which lines of the document are the student's.
KEPT_HIDDEN = re.compile(r"^\.\w+\.export\.json$")


class Refused(Exception):
    """This submission is not taken in; the text says why."""


@dataclass(frozen=True)
class Submission:
    """One student's folder, archive or notebook."""

    name: str  # for people
    slug: str  # for folders and links: ASCII, unique, the same in every run
    source: str
    refused: str = ""  # why it is not even opened
    id: str = ""  # of the student, where the course says how names hold it


def display(name: str | bytes) -> str:
    """A file's name as it may be shown: no control characters, none that turn the text around."""
    text = os.fsencode(name).decode("utf-8", "replace")
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join("\ufffd" if unicodedata.category(c) in hidden else c for c in text)


def slug(name: str) -> str:
    """A name for folders and links, from a submission's file name: ASCII, unique, stable."""
    plain = unicodedata.normalize("NFKD", display(name)).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:40] or "student"
    return f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def _student(entry: os.DirEntry) -> str:
    """The student's name in the name of a folder, an archive or a notebook."""
    name = entry.name
    if not entry.is_dir(follow_symlinks=False):
        ending = next((e for e in (*ARCHIVES, ".ipynb") if name.lower().endswith(e)), "")
        name = name[: len(name) - len(ending)] or name
    return display(name).strip() or "(no name)"


def find_submissions(
    folder: Path, pattern: re.Pattern | None = None
) -> tuple[list[Submission], list[str]]:
    """(submissions in the order of their names, notes on what was left out).

    pattern: finds the groups "name" and "id" in a file's name; a name that it does not fit is
    taken whole.
    """
    found, notes, names = [], [], set()
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith(".") or entry.name in SKIPPED:
            continue
        refused = ""
        if entry.is_symlink():
            refused = "it is a link, not a folder or an archive"
        elif not entry.is_dir() and not entry.is_file():
            refused = "it is neither a folder nor a file"
        elif entry.is_file() and not entry.name.lower().endswith((*ARCHIVES, ".ipynb")):
            shown = display(entry.name)
            notes.append(f"{shown} was left out: not a folder, an archive or a notebook.")
            continue
        name = _student(entry)
        parts = match.groupdict() if pattern and (match := pattern.match(name)) else {}
        name = parts.get("name") or name
        if name in names:
            name = f"{name} ({display(entry.name)})"
        names.add(name)
        source = str(Path(folder).absolute() / entry.name)
        found.append(Submission(name, slug(entry.name), source, refused, parts.get("id") or ""))
    return found, notes


def files_of(source: Path) -> list[Path]:
    """A submission's own file, or those of its folder in the order of their names."""
    if source.is_symlink() or not source.is_dir():
        return [source]
    every = (Path(folder) / name for folder, _, names in os.walk(source) for name in names)
    return sorted(itertools.islice(every, MAX_FILES))


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a member's name; () for what is skipped.

    Raises Refused for a path that leaves its folder.
    """
    if "\0" in name or any(unicodedata.category(c) == "Cc" for c in name):
        raise Refused(f"a file's name holds control characters: {display(name)!r}")
    plain = name.replace("\\", "/")
    if plain.startswith("/") or re.match(r"^[A-Za-z]:", plain):
        raise Refused(f"{display(name)!r} is an absolute path")
    parts = tuple(p for p in PurePosixPath(plain).parts if p not in (".", ""))
    if ".." in parts:
        raise Refused(f"{display(name)!r} leads out of the submission")
    if len(parts) > 20 or any(len(os.fsencode(p)) > 240 for p in parts):
        raise Refused(f"{display(name)[:80]!r}… is too deep or too long")
    hidden = any(p.startswith(".") and not KEPT_HIDDEN.match(p) for p in parts)
    return () if hidden or SKIPPED.intersection(parts) else parts


class _Writer:
    """Writes members into the destination and keeps count of what they really take."""

    def __init__(self, destination: Path):
        self.destination, self.files, self.bytes = destination, 0, 0

    def expect(self, size: int, name: str) -> None:
        if size > MAX_FILE:
            limit = f"the limit for a file is {MAX_FILE // MIB} MiB"
            raise Refused(f"{display(name)!r} is {size / MIB:,.0f} MiB unpacked; {limit}")
        if self.bytes + size > MAX_TOTAL:
            raise Refused(f"it is more than {MAX_TOTAL // MIB} MiB unpacked")

    def write(self, parts: tuple[str, ...], stream, size: int) -> None:
        name = "/".join(parts)
        self.expect(size, name)
        self.files += 1
        if self.files > MAX_FILES:
            raise Refused(f"it has more than {MAX_FILES} files")
        target = self.destination.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except (FileExistsError, NotADirectoryError) as error:
            raise Refused(f"{display(name)!r} is there twice") from error
        written = 0
        with os.fdopen(handle, "wb") as file:
            while chunk := stream.read(MIB):  # counts what comes, whatever a header has promised
                written += len(chunk)
                self.expect(written, name)
                file.write(chunk)
        self.bytes += written


@dataclass(frozen=True)
class _Member:
    """A member of an archive. kind: file, folder, link or other."""

    name: str
    kind: str
    size: int
    open: Callable[[], BinaryIO]


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    kinds = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    for info in archive.infolist():
        kind = kinds.get(stat.S_IFMT(info.external_attr >> 16), "other")
        kind = "folder" if kind == "file" and info.is_dir() else kind
        yield _Member(info.filename, kind, info.file_size, lambda info=info: archive.open(info))


def _tar_members(archive: tarfile.TarFile, writer: _Writer) -> Iterator[_Member]:
    for info in archive:
        kind = "file" if info.isreg() else "folder" if info.isdir() else "other"
        kind = "link" if info.issym() or info.islnk() else kind
        writer.expect(info.size, info.name)  # before the archive is read past it
        yield _Member(info.name, kind, info.size, lambda info=info: archive.extractfile(info))


def _from_archive(members: Iterable[_Member], writer: _Writer, above: tuple[str, ...] = ()) -> None:
    for count, member in enumerate(members):
        if count > 10 * MAX_FILES:
            raise Refused(f"it has more than {10 * MAX_FILES} members")
        parts = safe_parts(member.name)
        if member.kind == "link":
            raise Refused(f"{display(member.name)!r} is a link")
        if member.kind == "other":
            raise Refused(f"{display(member.name)!r} is neither a file nor a folder")
        if member.kind == "file" and parts:
            with member.open() as stream:
                writer.write((*above, *parts), stream, member.size)


def _from_folder(source: Path, writer: _Writer, notes: list[str]) -> None:
    """A student's folder. An archive in it is unpacked: so learning platforms hand them on."""
    root = os.path.realpath(source)

    def walk(folder: Path, above: tuple[str, ...]) -> None:
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            parts = safe_parts("/".join((*above, entry.name)))
            if not parts:
                continue
            if entry.is_symlink():
                if not (os.path.realpath(entry.path) + os.sep).startswith(root + os.sep):
                    raise Refused(f"{display('/'.join(parts))!r} is a link out of the folder")
                notes.append(f"{display('/'.join(parts))} is a link and was left out.")
            elif entry.is_dir(follow_symlinks=False):
                walk(Path(entry.path), parts)
            elif entry.is_file(follow_symlinks=False):
                if not above and entry.name.lower().endswith(ARCHIVES):
                    # results.zip holds my_week/, so that it lies where a notebook has it.
                    alone = not (folder / _student(entry)).exists()
                    _from_file(Path(entry.path), writer, (_student(entry),) if alone else parts)
                elif stream := notebook_file.open_plain(Path(entry.path)):
                    with stream:
                        writer.write(parts, stream, os.fstat(stream.fileno()).st_size)
            else:
                shown = display("/".join(parts))
                notes.append(f"{shown} is neither a file nor a folder and was left out.")

    walk(source, ())


def take_in(source: Path, destination: Path) -> dict:
    """Copy or unpack a submission. Returns {"root": folder inside, "notes", "notebooks": {...}}.

    Raises Refused (one reason) and leaves nothing in the destination.
    """
    notes: list[str] = []
    destination.mkdir(parents=True)
    writer = _Writer(destination)
    try:
        if source.is_dir():
            _from_folder(source, writer, notes)
        else:
            _from_file(source, writer)
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise
    root = _root(destination)
    found = (path for path in sorted(root.glob("*.ipynb")) if path.name != SOLUTIONS)
    notebooks = {path.name: notebook_file.about(path) for path in found}
    return {"root": str(root.relative_to(destination)), "notes": notes, "notebooks": notebooks}


def _from_file(source: Path, writer: _Writer, above: tuple[str, ...] = ()) -> None:
    """An archive or a notebook; whatever is wrong with it is a reason to refuse it.

    above: the folder that an archive is unpacked into.
    """
    size, name = source.stat().st_size, source.name.lower()
    if size > MAX_ARCHIVE:
        raise Refused(f"it is {size / MIB:,.0f} MiB; the limit is {MAX_ARCHIVE // MIB} MiB")
    try:
        if name.endswith(".ipynb"):
            with open(source, "rb") as stream:
                writer.write((source.name,), stream, size)
        elif name.endswith(".zip"):
            with zipfile.ZipFile(source) as archive:
                _from_archive(_zip_members(archive), writer, above)
        else:
            with tarfile.open(source, "r:*") as archive:
                _from_archive(_tar_members(archive, writer), writer, above)
    except Refused:
        raise
    except Exception as error:  # zipfile and tarfile let through what a damaged archive can raise
        if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOSPC):
            raise  # our limits, our disk
        said = f"{type(error).__name__}: {display(str(error))[:120]}"
        raise Refused(f"the archive cannot be read ({said})") from error


def _root(folder: Path) -> Path:
    """The folder with the work in it: archives often wrap it in another, or in notebooks/."""
    inside = (p for p in folder.rglob("*") if p.is_dir())
    places = [folder, *sorted(inside, key=lambda p: (len(p.parts), str(p)))]
    for wanted in (["*.ipynb"], ["my_learnings.md", "measurements.jsonl"]):
        for place in places:
            if any(any(place.glob(pattern)) for pattern in wanted):
                return place
    return folder


def main(source: str, destination: str, result: str) -> int:
    """Take in a submission within limits; the answer, or why there is none, goes into a file."""
    limit_resources(LIMITS)
    try:
        answer = take_in(Path(source), Path(destination))
    except Refused as reason:
        answer = {"refused": str(reason)}
    except OSError as error:
        answer = {"error": f"it could not be copied ({error.strerror or error})"}
    except (MemoryError, RecursionError):
        answer = {"refused": "it takes too much memory to unpack"}
        with contextlib.suppress(OSError):
            shutil.rmtree(destination, ignore_errors=True)
    Path(result).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
