"""The phases of an engine's start, in the log of an H100's first one (2026-11-24, vLLM 0.32.0)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO
from helpers.engine.start import PHASES

LOG = Path(__file__).parent / "engine_start_h100.txt"


def test_each_phase_of_a_gpus_start_begins_in_its_order():
    text = LOG.read_text()
    ends = [i + 1 for i, character in enumerate(text) if character == "\n"]
    # The view reads the log again and again: when does each pattern first find something in it?
    begins = {
        label: next((end for end in ends if re.search(pattern, text[:end])), None)
        for label, pattern in PHASES
    }
    assert None not in begins.values(), begins
    found = list(begins.values())
    assert found == sorted(found) and len(set(found)) == len(found) == len(PHASES), begins


@pytest.mark.slow  # an import of vLLM and an engine of its own
def test_an_engine_starts_where_numba_came_first():
    program = (
        "from vllm.v1.spec_decode import ngram_proposer\n"  # brings numba and llvmlite
        "from helpers.engine import close_engine, load_profile, open_engine\n"
        "open_engine(load_profile('cpu'))\n"
        "close_engine()\n"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr[-2000:]


def test_jsonschema_is_imported_without_forty_parsers():
    code = "import sys, helpers, jsonschema; print(sys.modules['rfc3987_syntax'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr


@pytest.mark.parametrize("kept, most", [("", 8_000), ("MALLOC_TRIM_THRESHOLD_", None)])
def test_freed_memory_is_used_again_without_new_pages(kept, most):
    """20 blocks of 20 MiB, one after the other: each of the 5,000 pages comes in once."""
    code = (
        "import ctypes, os, resource\n"
        "from helpers.engine.start import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "for _ in range(20):\n"
        "    block = ctypes.c_void_p(libc.malloc(20 * 2**20))\n"
        "    ctypes.memset(block, 1, 20 * 2**20)\n"
        "    libc.free(block)\n"
        "print(faults() - before, os.environ.get('MALLOC_MMAP_THRESHOLD_'))"
    )
    environment = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {kept: "1000"} if kept else {}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    faults, mmap_threshold = said.stdout.split()
    if most:
        assert int(faults) < most and int(mmap_threshold) == 2**25
    else:
        assert mmap_threshold == "None", "one's own settings are kept"
