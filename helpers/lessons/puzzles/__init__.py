"""Code puzzles of the notebooks: `check = checks(store)`, then `check(your_function)`.

check.py is the mechanism; every other file holds puzzles, with what they are compared with.
Notebook 4's cheapest plan is compared with the planner and lives there.
"""

from __future__ import annotations

from helpers.lessons.puzzles.admission import QUEUE_LIMIT
from helpers.lessons.puzzles.attention import TILED_ATTENTION
from helpers.lessons.puzzles.check import Check
from helpers.lessons.puzzles.goodput import GOODPUT
from helpers.lessons.puzzles.kv_cache import BLOCKS_HELD, KV_BYTES_PER_TOKEN, TOKENS_FOUND
from helpers.lessons.puzzles.one_step import ONE_STEP
from helpers.lessons.puzzles.places import STEPS_NEEDED
from helpers.lessons.puzzles.sharding import SHARDED_MLP
from helpers.lessons.puzzles.speculation import ACCEPT_OR_REPLACE, DRAFT
from helpers.lessons.puzzles.tuning import BEST_FOR

PUZZLES = (
    KV_BYTES_PER_TOKEN,
    BLOCKS_HELD,
    BEST_FOR,
    TOKENS_FOUND,
    ONE_STEP,
    DRAFT,
    ACCEPT_OR_REPLACE,
    TILED_ATTENTION,
    STEPS_NEEDED,
    SHARDED_MLP,
    GOODPUT,
    QUEUE_LIMIT,
)


def checks(store, *more) -> Check:
    """The function `check` of a notebook; solved puzzles are recorded in its store.

    more: puzzles besides `PUZZLES`.
    """
    return Check(store, (*PUZZLES, *more))
