"""Files in the user's cache that may be lost: logs, dummy model folders, who holds this machine.

Where nothing can be written (a full disk, a home that is read-only) each function here raises an
EngineError that says so.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

from helpers import replace_file
from helpers.engine.failure import EngineError


def cache_dir(part: str) -> Path:
    """The folder `part` of the workbook's cache; made when it is not there."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "vllm-workbook" / part
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_log(kind: str) -> Path:
    """An empty file for the log of an "engine" or a "server"; the 40 before it are kept."""
    folder = cache_dir("logs")
    prefix = time.strftime(f"{kind}-%Y%m%d-%H%M%S-")
    with _writing_to(folder):
        for old in sorted(folder.glob(f"{kind}-*"))[:-40]:  # a killed one leaves its steps, too
            old.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".log", dir=folder)
    os.close(handle)
    return Path(name)


def write_once(path: Path, content: bytes) -> None:
    """Give a file this content; another notebook that reads it meanwhile finds it whole."""
    if path.is_file() and path.read_bytes() == content:
        return
    with _writing_to(path.parent):
        replace_file(path, content)


@contextlib.contextmanager
def _writing_to(folder: Path):
    try:
        yield
    except OSError as error:
        what = f"Nothing can be written to {folder} ({error.strerror})"
        how = "free some disk space, or set XDG_CACHE_HOME to another folder"
        raise EngineError(f"{what}: {how}.") from None
