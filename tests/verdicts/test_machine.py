"""helpers/verdicts/machine.py: another program is noticed, one's own work and children are not."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from helpers.verdicts import machine
from helpers.verdicts.machine import Disturbance, MachineWatch, busy, less_slowed

BURN = "import time\nend = time.time() + {s}\nwhile time.time() < end: pass"


def burn(seconds):
    return subprocess.Popen([sys.executable, "-c", BURN.format(s=seconds)])


@pytest.fixture
def stranger():
    """A busy process that is nobody's child: its parent has ended."""
    code = (
        "import subprocess, sys\n"
        "null = subprocess.DEVNULL\n"  # with our pipes it would be waited for until its end
        f"command = [sys.executable, '-c', {BURN.format(s=20)!r}]\n"
        "print(subprocess.Popen(command, stdout=null, stderr=null).pid)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    adopted = psutil.Process(pid).ppid() == psutil.Process().pid
    yield pid
    psutil.Process(pid).kill()
    assert not adopted, (
        "a test has left this process adopting orphans: what they do is its own work"
    )


def share(seconds, work=lambda: None):
    watch = MachineWatch()
    work()
    time.sleep(seconds)
    return watch.stop()


def test_another_program_is_noticed(stranger):
    program = psutil.Process(stranger)
    began, used_before = time.perf_counter(), sum(program.cpu_times()[:2])
    seen = share(1.0)
    used_s = sum(program.cpu_times()[:2]) - used_before
    capacity_s = (time.perf_counter() - began) * psutil.cpu_count()
    assert used_s > 0, program.status()
    assert seen.others_share > used_s / capacity_s / 2, "by its own count it took more"
    assert seen.others_share <= 0.1 or "other programs took" in seen.reasons[0]


def test_time_that_the_host_took_without_a_word_is_not_lost(monkeypatch):
    """Its ticks are missing: busy time stands still while the clock goes on."""
    now = psutil.cpu_times()
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: now)
    hidden = share(0.3)
    assert hidden.others_share > 0.9 and hidden.slowdown > 5


def test_a_child_is_ones_own_work():
    """Of all that was busy meanwhile, what the child used is not others'."""
    began, idle_before = time.perf_counter(), idle_s()
    child = burn(1.0)
    watch = MachineWatch()
    _, _, used = os.wait4(child.pid, 0)
    child.returncode = 0  # it has been waited for
    seen = watch.stop()
    capacity_s = (time.perf_counter() - began) * psutil.cpu_count()
    busy_s = capacity_s - (idle_s() - idle_before)
    assert seen.others_share * capacity_s < busy_s - (used.ru_utime + used.ru_stime) / 2


def idle_s() -> float:
    now = psutil.cpu_times()
    return now.idle + now.iowait


def test_a_moment_is_too_short_to_tell():
    assert share(0.0) == Disturbance(0.0, 0.0) and share(0.0).reasons == []


@pytest.mark.parametrize(
    ("gpus", "slowest"), [([(20, 0.95), (0, 0.17)], 0.95), ([(20, 0.6), (20, 1.0)], 0.6)]
)
def test_the_clock_of_an_idle_gpu_does_not_count(gpus, slowest, monkeypatch):
    def device(used_gib, clock):
        return SimpleNamespace(
            memory_used=lambda: used_gib * machine.GIB,
            sm_clock=lambda: 1980 * clock,
            max_sm_clock=lambda: 1980,
            processes=dict,
        )

    monkeypatch.setattr(machine, "visible_devices", lambda: [device(*gpu) for gpu in gpus])
    assert share(0.2).gpu_clock_share == pytest.approx(slowest)


def test_records_hold_only_what_is_known():
    quiet = Disturbance(0.02, 0.0)
    assert quiet.record() == {"others_share": 0.02, "steal_share": 0.0} and quiet.label() == ""
    slow = Disturbance(0.0, 0.06, 0.5, 3.0)
    assert len(slow.record()["disturbed"]) == 2 and slow.record()["others_gpu_gib"] == 3.0


@pytest.mark.parametrize(
    "shares, disturbed",
    [((0.09, 0.0), False), ((0.11, 0.0), True), ((0.0, 0.04), False), ((0.0, 0.06), True),
     ((0.0, 0.0, 0.71), False), ((0.0, 0.0, 0.69), True)],
)  # fmt: skip
def test_a_run_is_called_disturbed_from_these_shares_on(shares, disturbed):
    assert bool(Disturbance(*shares).reasons) == disturbed


def test_others_can_have_slowed_a_run_by_what_they_took():
    assert Disturbance(0.05, 0.0).slowdown == 1.0, "too little to speak of"
    assert Disturbance(0.5, 0.0).slowdown == pytest.approx(2)
    assert Disturbance(0.5, 0.25).slowdown == pytest.approx(4)
    assert Disturbance(1.0, 0.4).slowdown == pytest.approx(10), "not without end"
    assert Disturbance(0.0, 0.0, gpu_clock_share=0.5).slowdown == pytest.approx(2)


def test_others_on_cores_that_the_run_did_not_want_have_not_slowed_it():
    little = Disturbance(0.5, 0.0, waited_share=0.1)
    assert little.slowdown == pytest.approx(1 / 0.9) and not little.slowed
    much = Disturbance(0.5, 0.0, waited_share=2.0)
    assert much.slowdown == pytest.approx(2) and much.slowed
    assert Disturbance(0.5, 0.25, waited_share=0.0).slowdown == pytest.approx(4 / 3)


def test_what_disturbed_a_run_is_said_wherever_it_stands():
    calm, beside = (
        SimpleNamespace(disturbance=Disturbance(share, 0.0, waited_share=0.0))
        for share in (0.0, 0.3)
    )
    assert busy([calm, calm]) == busy([SimpleNamespace(disturbance=None)]) == ""
    assert "took 30 % of the cores" in busy([calm, beside]) == busy([beside, calm])


@pytest.mark.parametrize(
    "others, made, counts",
    [([0.05], 1, 0), ([0.6, 0.3], 2, 1), ([0.3, 0.6], 2, 0), ([None], 1, 0), ([0.6, None], 2, 0)],
)
def test_a_slowed_run_is_made_once_more_and_the_less_slowed_counts(others, made, counts, capsys):
    runs = [
        SimpleNamespace(disturbance=None if share is None else Disturbance(share, 0.0))
        for share in others
    ]
    seen = []

    def measure(again):
        seen.append(again)
        return runs[again]

    assert less_slowed(measure) is runs[counts] and seen == [*range(made)]
    said = capsys.readouterr().out
    assert bool(said) == (made == 2), "what was run again is said, and nothing else"
    if said:
        assert f"slowed a run up to {1 / (1 - others[0]):.2f} times, again " in said
        assert said.endswith(f" The {('first', 'second')[counts]} counts.\n")
        assert ("again nobody watched it." in said) == (others[1] is None)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts how long a thread waits")
def test_a_run_that_shares_its_core_has_waited():
    def busy():
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            pass

    [core, *_] = cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    child = burn(3)  # on the same core
    try:
        assert share(0.0, busy).waited_share > 0.2
    finally:
        child.kill()
        os.sched_setaffinity(0, cores)
    assert share(0.5).waited_share < 0.9, "who sleeps does not wait"
