"""Take in one student's submission: a folder, an archive or a single notebook, without trusting it.

    python -m helpers.run.classroom.intake SOURCE DESTINATION RESULT.json

helpers/run/classroom/class_run.py starts this for each submission, in a process with limits on memory, file size
and time, because an archive can be built to exhaust all three. Only plain files are copied. A
submission is refused as a whole when it tries to reach outside its folder or to fill the disk.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tarfile
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MIB = 2**20
MAX_TOTAL = 500 * MIB  # of a submission, unpacked
MAX_FILE = 100 * MIB
MAX_ARCHIVE = 300 * MIB  # as it comes
MAX_FILES = 5000
MAX_NOTEBOOK = 60 * MIB
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SKIPPED = {
    "__MACOSX",
    ".DS_Store",
    ".ipynb_checkpoints",
    "__pycache__",
    ".git",
    ".venv",
    "venv",
    "node_modules",
    ".cache",
}
# Left by the workbook's own export; it tells which lines of the document are the student's.
KEPT_HIDDEN = re.compile(r"^\.(my_learnings|distributed_planning)\.export\.json$")


class Refused(Exception):
    """This submission is not taken in; the text says why."""


@dataclass(frozen=True)
class Submission:
    name: str  # for people
    slug: str  # for folders and links: ASCII, unique, the same in every run
    source: str
    refused: str = ""


def display(name: str | bytes) -> str:
    """A file's name as it may be shown: no control characters, none that turn the text around."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c
        for c in text
    )


def slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", display(name)).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:40] or "student"
    return f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def stem(name: str) -> str:
    """The student's name in the name of an archive or notebook."""
    for ending in (*ARCHIVES, ".ipynb"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def find_submissions(folder: Path) -> tuple[list[Submission], list[str]]:
    """(submissions in the order of their names, notes on what was left out)."""
    found, notes, taken = [], [], {}
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith(".") or entry.name in SKIPPED:
            continue
        refused = ""
        if entry.is_symlink():
            refused = "it is a link, not a folder or an archive"
        elif not entry.is_dir(follow_symlinks=False):
            if not entry.is_file(follow_symlinks=False):
                refused = "it is neither a folder nor a file"
            elif not entry.name.lower().endswith((*ARCHIVES, ".ipynb")):
                notes.append(
                    f"{display(entry.name)} was left out: not a folder, an archive or a notebook."
                )
                continue
        name = (
            display(entry.name if entry.is_dir(follow_symlinks=False) else stem(entry.name)).strip()
            or "(no name)"
        )
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name} ({display(entry.name)})"
        found.append(
            Submission(name, slug(entry.name), str(Path(folder).absolute() / entry.name), refused)
        )
    return found, notes


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a member's name; () for what is skipped. Raises Refused for a path that leaves its folder."""
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
    if any(p in SKIPPED for p in parts) or any(
        p.startswith(".") and not KEPT_HIDDEN.match(p) for p in parts
    ):
        return ()
    return parts


class _Writer:
    """Writes members into the destination and keeps count of what they really take."""

    def __init__(self, destination: Path):
        self.destination, self.files, self.bytes = destination, 0, 0

    def expect(self, size: int, name: str) -> None:
        if size > MAX_FILE:
            raise Refused(
                f"{display(name)!r} is {size / MIB:,.0f} MiB unpacked; the limit for a file is {MAX_FILE // MIB} MiB"
            )
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


def _from_zip(source: Path, writer: _Writer) -> None:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        if len(members) > 10 * MAX_FILES:
            raise Refused(f"it has {len(members)} members")
        for member in members:
            parts = safe_parts(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind == stat.S_IFLNK:
                raise Refused(f"{display(member.filename)!r} is a link")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(f"{display(member.filename)!r} is neither a file nor a folder")
            if member.is_dir() or not parts:
                continue
            if member.flag_bits & 1:
                raise Refused("it is encrypted")
            with archive.open(member) as stream:
                writer.write(parts, stream, member.file_size)


def _from_tar(source: Path, writer: _Writer) -> None:
    with tarfile.open(source, "r:*") as archive:
        for count, member in enumerate(archive):
            if count > 10 * MAX_FILES:
                raise Refused(f"it has more than {10 * MAX_FILES} members")
            parts = safe_parts(member.name)
            if member.issym() or member.islnk():
                raise Refused(f"{display(member.name)!r} is a link")
            if member.isdir():
                continue
            if not member.isreg():
                raise Refused(f"{display(member.name)!r} is neither a file nor a folder")
            writer.expect(member.size, member.name)  # before the archive is read past it
            if parts:
                writer.write(parts, archive.extractfile(member), member.size)


def _from_folder(source: Path, writer: _Writer, notes: list[str]) -> None:
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
                # Opened without following links: what was a file a moment ago may be one no more.
                handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(handle, "rb") as stream:
                    info = os.fstat(handle)
                    if stat.S_ISREG(info.st_mode):
                        writer.write(parts, stream, info.st_size)
            else:
                notes.append(
                    f"{display('/'.join(parts))} is neither a file nor a folder and was left out."
                )

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
            if source.stat().st_size > MAX_ARCHIVE:
                raise Refused(
                    f"it is {source.stat().st_size / MIB:,.0f} MiB; the limit is {MAX_ARCHIVE // MIB} MiB"
                )
            lower = source.name.lower()
            try:
                if lower.endswith(".ipynb"):
                    with open(source, "rb") as stream:
                        writer.write((source.name,), stream, source.stat().st_size)
                elif lower.endswith(".zip"):
                    _from_zip(source, writer)
                else:
                    _from_tar(source, writer)
            except (
                zipfile.BadZipFile,
                tarfile.TarError,
                EOFError,
                ValueError,
                NotImplementedError,
                RuntimeError,
                OverflowError,
            ) as error:
                raise Refused(
                    f"the archive cannot be read ({type(error).__name__}: {display(str(error))[:120]})"
                ) from error
            except OSError as error:
                if isinstance(error, PermissionError) or error.errno in (
                    27,
                    28,
                ):  # our limits, our disk
                    raise
                raise Refused(
                    f"the archive cannot be read ({display(str(error))[:120]})"
                ) from error
            except Exception as error:  # zlib.error, lzma.LZMAError
                if isinstance(error, Refused):
                    raise
                raise Refused(f"the archive cannot be read ({type(error).__name__})") from error
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise
    root = _root(destination)
    notebooks = {path.name: inspect(path) for path in sorted(root.glob("*.ipynb"))}
    return {
        "root": str(root.relative_to(destination)),
        "notes": notes,
        "notebooks": notebooks,
        "files": writer.files,
        "bytes": writer.bytes,
    }


def _root(folder: Path) -> Path:
    """The folder with the work in it: archives often wrap it in another, or in notebooks/."""
    places = [
        folder,
        *sorted((p for p in folder.rglob("*") if p.is_dir()), key=lambda p: (len(p.parts), str(p))),
    ]
    for place in places:
        if any(place.glob("*.ipynb")):
            return place
    for place in places:
        if (place / "my_learnings.md").exists() or (place / "measurements.jsonl").exists():
            return place
    return folder


def inspect(path: Path) -> dict:
    """What a notebook file says about itself, read as plain JSON: format, parameters, what was run.

    {"problem": sentence} when it cannot be read.
    """
    try:
        if path.stat().st_size > MAX_NOTEBOOK:
            return {"problem": f"it is larger than {MAX_NOTEBOOK // MIB} MiB"}
        data = json.loads(path.read_text(encoding="utf-8"))
        major = int(data.get("nbformat", 0))
        if major != 4:
            return {
                "problem": f"it is in notebook format {major or '(none)'}, not 4",
                "format": major,
            }
        code, ran, error, parameters = 0, 0, None, None
        for cell in data["cells"]:
            if cell["cell_type"] != "code":
                continue
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            if not source.strip():
                continue
            code += 1
            ran += bool(cell.get("execution_count"))
            if "parameters" in (cell.get("metadata") or {}).get("tags", []):
                parameters = assigned(source)
            for output in cell.get("outputs") or []:
                if output.get("output_type") == "error" and error is None:
                    error = {
                        "cell": code,
                        "ename": str(output.get("ename"))[:200],
                        "evalue": str(output.get("evalue"))[:1000],
                    }
        return {
            "format": major,
            "cells": code,
            "ran": ran,
            "error": error,
            "parameters": parameters,
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {"problem": f"it is not a notebook ({type(error).__name__}: {str(error)[:120]})"}
    except OSError as error:
        return {"problem": f"it cannot be read ({error.strerror})"}


def assigned(source: str) -> list[str]:
    """The names that a cell assigns; of a cell with a syntax error those at the beginning of a line."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return sorted(set(re.findall(r"^([A-Za-z_]\w*)\s*(?::[^=\n]+)?=(?!=)", source, re.M)))
    names = set()
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return sorted(names)


def main(source: str, destination: str, result: str) -> int:
    import resource

    for name, value in (("AS", 4 * 2**30), ("FSIZE", MAX_FILE + MIB), ("CORE", 0), ("CPU", 300)):
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, hard))
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
