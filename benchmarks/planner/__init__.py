"""The planner against real engines: predictions written first, then measured, then compared.

configs/ lists what is worth measuring on a machine, records/ keeps predictions and measurements,
planner_accuracy.md is the comparison: python -m benchmarks.planner.record, .accuracy
"""

from pathlib import Path

FOLDER = Path(__file__).parent
RECORDS = FOLDER / "records"
