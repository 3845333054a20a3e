"""The code behind the notebooks of Integration Week: each module has one job, in the order data flows.

profile -> engine / server -> workloads, measure, gpu_memory -> results -> plots, learnings
"""

from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


class OneLineError(Exception):
    """An error whose sentence says what happened and what to do: a notebook shows that line and no traceback."""

    def _render_traceback_(self):  # IPython shows this instead of the frames
        return [f"{type(self).__name__}: {self}"]
