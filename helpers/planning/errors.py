"""The one error of the planner: a sentence that names the cause and the nearest thing that works."""

from helpers import OneLineError


class PlanningError(OneLineError, ValueError):
    """Raised for input that cannot be planned for. ``str(error)`` is one sentence for a person."""
