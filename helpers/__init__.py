"""The code behind the notebooks, room by room; a room imports only from the rooms below it here.

run            the commands: make run, make lab, make doctor, a class of submissions
planning       notebook 4 and `python -m helpers.planning`: size, predict, choose, launch
lessons        what only a notebook needs: its experiments, words and pictures
results        what was measured, and the two documents that are filled from it
server         a vLLM server as a child process, and a load on it
measure        run a workload on an engine: a record a request, a row a step
workloads      seeded sets of requests
verdicts       what a comparison may say: ranges, runs in turn, a busy machine noticed
engine         vLLM opened, changed and closed, with proof that memory came back
display        what a cell shows: cards, numbers, figures, live views
gpu_memory     memory sampled in the background; `python -m helpers.gpu_memory -- COMMAND`
tiny_model     the model that ships

The core is an evening's reading: engine, gpu_memory, workloads, measure.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

# A package that JupyterLab brings makes forty parsers (0.8 s) as soon as jsonschema is imported,
# which vLLM and papermill do. They are for checks of web addresses, and nobody here asks for those.
sys.modules.setdefault("rfc3987_syntax", None)

REPO = Path(__file__).resolve().parents[1]


class OneLineError(Exception):
    """An error whose sentence says what happened and what to do; a notebook shows it alone."""

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
    except BaseException:  # a full disk, or the stop button
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
