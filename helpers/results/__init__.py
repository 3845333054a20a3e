"""What was measured, and the two documents that are filled from it.

`Results` keeps every number with its provenance (store.py). `export` fills my_learnings.md and
distributed_planning.md (documents.py; which blank from which record: blanks.py; which records
count: facts.py; tables and lists: tables.py) and leaves what the student typed (merge.py).
`import_numbers` reads a student's own numbers of Weeks 2 and 3; `recorded` has the records of
machines that the student may not have.
"""

from helpers.results import recorded
from helpers.results.documents import export
from helpers.results.own_numbers import import_numbers
from helpers.results.store import Results, ResultsError

__all__ = ["Results", "ResultsError", "export", "import_numbers", "recorded"]
