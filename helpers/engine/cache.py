"""Files in the user's cache that may be lost: logs, dummy model folders, who holds this machine."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from helpers import replace_file


def cache_dir(part: str) -> Path:
    """The folder `part` of the workbook's cache; made when it is not there."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "vllm-workbook" / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_log(kind: str) -> Path:
    """An empty file for the log of an "engine" or a "server"; the 40 before it are kept."""
    folder = cache_dir("logs")
    for old in sorted(folder.glob(f"{kind}-*.log"))[:-40]:
        old.unlink(missing_ok=True)
    prefix = time.strftime(f"{kind}-%Y%m%d-%H%M%S-")
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".log", dir=folder)
    os.close(handle)
    return Path(name)


def write_once(path: Path, content: bytes) -> None:
    """Give a file this content; another notebook that reads it meanwhile finds it whole."""
    if path.is_file() and path.read_bytes() == content:
        return
    replace_file(path, content)
