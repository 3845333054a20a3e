"""A setting without a mechanism, compared while other programs keep the cores busy.

Prompts of 32 tokens, one request at a time, fit every budget: with 4,096 tokens a step and with
512 the engine makes the same steps. So no gain may be claimed, and every run is marked.
"""

import subprocess
import sys

import psutil
import pytest

from helpers.engine import RETUNABLE, close_engine, load_profile, open_engine, retuned
from helpers.measure import run_workload, warm_up
from helpers.results import Results
from helpers.verdicts.in_turn import in_turn
from helpers.workloads import uniform

BURN = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"
START = """
import subprocess
for _ in range({n}):  # without our pipes, or this program would be waited for until they end
    null = subprocess.DEVNULL
    print(subprocess.Popen({command!r}, stdout=null, stderr=null).pid)
"""
NO_CACHE = {"skip_reading_prefix_cache": True}


@pytest.fixture
def engine():
    yield open_engine(load_profile("cpu"), max_num_batched_tokens=4096, **RETUNABLE)
    close_engine()


@pytest.fixture
def busy_cores(engine):
    """A busy process for each core; their parent has ended, so they are not this test's own."""
    code = START.format(n=psutil.cpu_count(), command=[sys.executable, "-c", BURN])
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pids = [int(line) for line in started.stdout.split()]
    programs = [psutil.Process(pid) for pid in pids]
    yield programs
    for program in programs:
        program.kill()


@pytest.mark.slow
def test_no_gain_is_claimed_and_every_run_is_marked(engine, busy_cores, tmp_path):
    store = Results("test", tmp_path, profile=load_profile("cpu"))
    workload = uniform(engine.tokenizer, 6, 32, 24, seed=1)

    def at(budget: int):
        def tokens_per_s() -> float:
            with retuned(engine, max_num_batched_tokens=budget):
                run = run_workload(engine, workload, NO_CACHE, concurrency=1, progress=False)
            store.save_run("chunk_budget", str(budget), run)
            return run.metrics["output_tokens_per_s"]

        return tokens_per_s

    warm_up(engine)
    claimed = []
    for _ in range(2):  # chance claims one in twenty: a wrong verdict is one that comes again
        gains, values = in_turn({"4096": at(4096), "512": at(512)}, "4096", "higher", budget_s=8)
        assert len(values["4096"]) >= 3 <= len(values["512"])
        if gains["512"].verdict in ("same", "open"):
            assert gains["512"].sentence().startswith(("no difference of", "undecided"))
            break
        claimed.append(gains["512"])
    assert len(claimed) < 2, f"claimed twice: {[gain.sentence() for gain in claimed]}"

    runs = store.records(experiment="chunk_budget", latest=False)
    unmarked = [run["machine"] for run in runs if "disturbed" not in run["machine"]]
    assert len(runs) >= 6
    assert not unmarked, (unmarked, [(one.status(), one.cpu_times()) for one in busy_cores])
