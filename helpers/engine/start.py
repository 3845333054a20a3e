"""Python's search for garbage, held back where it costs seconds and finds nothing.

Importing vLLM makes a million objects that stay. Python looks through them again and again while they are made (2 of
the 7 s of the import on one core), and vLLM asks for such a look four times in an engine's start and twice in its end
(0.4 s each).
"""

import contextlib
import gc


@contextlib.contextmanager
def paused():
    """For an import: nothing is collected meanwhile. What is there afterwards is looked at as before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def never_now():
    """Also ``gc.collect()`` does nothing in here; the caller collects afterwards, once."""
    collect, gc.collect = gc.collect, lambda generation=2: 0
    try:
        with paused():
            yield
    finally:
        gc.collect = collect
