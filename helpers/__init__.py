"""The code behind the notebooks of Integration Week: each module has one job, in the order data flows.

profile -> engine / server -> workloads, measure, gpu_memory -> results -> plots, learnings
"""

import contextlib
import os
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


class OneLineError(Exception):
    """An error whose sentence says what happened and what to do: a notebook shows that line and no traceback."""

    def _render_traceback_(self):  # IPython shows this instead of the frames
        return [f"{type(self).__name__}: {self}"]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: whoever reads it sees the old text or the new one, never half.

    Raises OSError when the disk is full; the file is then as before.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
