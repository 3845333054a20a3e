"""helpers/engine/processes.py: whatever happens to the parent, nothing of the tree stays."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from helpers.engine import processes

# A tree like vLLM's: the command, a child that ignores SIGTERM, and a grandchild in a session
# of its own whose parent has gone (a daemon). Each writes its pid to a file of its own.
TREE = textwrap.dedent("""
    import os, signal, subprocess, sys, time
    folder = sys.argv[1]
    stubborn = "import signal, time, os, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);" \
               "open(sys.argv[1] + '/child', 'w').write(str(os.getpid())); time.sleep(600)"
    daemon = "import os, sys, time; os.setsid();" \
             "os.fork() and sys.exit(); me = str(os.getpid());" \
             "open(sys.argv[1] + '/daemon', 'w').write(me);" \
             "time.sleep(600)"
    subprocess.Popen([sys.executable, "-S", "-c", stubborn, folder])
    subprocess.Popen([sys.executable, "-S", "-c", daemon, folder]).wait()
    open(folder + "/command", "w").write(str(os.getpid()))
    print("tree is up", flush=True)
    while not os.path.exists(folder + "/child") or not os.path.exists(folder + "/daemon"):
        time.sleep(0.02)
    exec(sys.argv[2])
    time.sleep(600)
""")
NAMES = ("command", "child", "daemon")
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def pids_of(folder, names=NAMES, patience_s=20):
    deadline = time.monotonic() + patience_s
    while True:
        texts = [(folder / n).read_text() if (folder / n).exists() else "" for n in names]
        if all(texts):
            return [int(t) for t in texts]
        assert time.monotonic() < deadline, f"only {os.listdir(folder)} came up in {patience_s} s"
        time.sleep(0.05)


def wait_gone(pids, within_s=10):
    start = time.monotonic()
    while any(processes.alive(p) for p in pids):
        left = {p: processes.title(p) for p in pids if processes.alive(p)}
        assert time.monotonic() - start < within_s, f"still there after {within_s} s: {left}"
        time.sleep(0.05)
    return time.monotonic() - start


def tree_command(folder, then="pass"):
    return [sys.executable, "-S", "-c", TREE, str(folder), then]


def test_stop_ends_the_whole_tree_and_twice_is_fine(tmp_path):
    log = tmp_path / "log.txt"
    process = processes.spawn(tree_command(tmp_path), log=log, grace_s=1)
    pids = pids_of(tmp_path)
    assert set(pids) <= set(processes.descendants(process.pid)), (
        "the daemon must stay below its supervisor"
    )
    code = processes.stop(process)
    assert not [p for p in pids if processes.alive(p)], "stop() returned before the tree was gone"
    assert code == 128 + signal.SIGTERM
    assert processes.stop(process) == code
    assert "tree is up" in log.read_text()


def test_stop_can_be_in_a_hurry(tmp_path):
    process = processes.spawn(tree_command(tmp_path, DEAF), grace_s=60)
    pids = pids_of(tmp_path)
    time.sleep(0.2)
    started = time.monotonic()
    assert processes.stop(process, grace_s=0.5) == 137
    assert 0.4 < time.monotonic() - started < 30, (
        "it must neither kill at once nor wait for the 60 s"
    )
    assert not [p for p in pids if processes.alive(p)]


@pytest.mark.parametrize("then, code", [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_when_the_command_ends_what_it_left_is_ended_too(tmp_path, then, code):
    process = processes.spawn(tree_command(tmp_path, then))
    pids = pids_of(tmp_path)
    assert process.wait(10) == code
    wait_gone(pids, within_s=1)


@pytest.mark.parametrize("then, grace_s", [("pass", 1), (DEAF, 60)], ids=["short", "long grace"])
def test_kill_9_of_the_parent_leaves_nothing(tmp_path, then, grace_s):
    script = (
        f"import time; from helpers.engine import processes\n"
        f"processes.spawn({tree_command(tmp_path, then)!r}, grace_s={grace_s})\ntime.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    pids = pids_of(tmp_path)
    parent.kill()
    parent.wait()
    wait_gone(pids)  # no longer than 10 s, whatever the grace: nobody is left to wait for


def test_kill_9_of_the_supervisor_ends_the_command(tmp_path):
    process = processes.spawn(tree_command(tmp_path))
    pids = pids_of(tmp_path)
    process.kill()
    process.wait()
    wait_gone(pids[:1])
    for pid in pids[1:]:
        os.kill(pid, signal.SIGKILL)


def test_a_parent_that_is_gone_before_the_start_is_noticed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = subprocess.run(
        [
            sys.executable,
            processes.__file__,
            "supervise",
            str(gone.pid),
            "1",
            *tree_command(tmp_path),
        ],
        timeout=20,
    )
    assert done.returncode in (128 + signal.SIGTERM, 137)


def test_a_command_that_does_not_exist_is_named(tmp_path):
    log = tmp_path / "log.txt"
    process = processes.spawn(["/no/such/program"], log=log)
    assert process.wait(10) == 127
    assert "cannot start /no/such/program: No such file or directory" in log.read_text()


# A stand-in for a notebook with an engine: a child titled as vLLM titles its own, with a child
# of its own; and a command of the user's that is none of the watcher's business.
KERNEL = textwrap.dedent("""
    import os, subprocess, sys, time
    from helpers.engine import processes
    folder = sys.argv[1]
    if sys.argv[2] == "guard":
        processes.guard_children(); processes.guard_children()
    code = "import signal, subprocess, sys, os, time;" \
           "signal.signal(signal.SIGTERM, signal.SIG_IGN);" \
           "p = subprocess.Popen(['sleep', '600']);" \
           "open(sys.argv[1] + '/worker', 'w').write(str(p.pid));" \
           "open(sys.argv[1] + '/engine', 'w').write(str(os.getpid())); time.sleep(600)"
    subprocess.Popen(["VLLM::EngineCore_test", "-S", "-c", code, folder], executable=sys.executable)
    mine = subprocess.Popen(["sleep", "600"])
    open(folder + "/mine", "w").write(str(mine.pid))
    while not os.path.exists(folder + "/engine"):
        time.sleep(0.02)
    if sys.argv[2] == "guard":
        time.sleep(0.5)
        below = processes.descendants(os.getpid())
        guards = " ".join(str(p) for p in below if processes.is_helper(p))
        open(folder + "/guards", "w").write(guards)
    open(folder + "/ready", "w").write("1")
    time.sleep(600)
""")


@pytest.fixture
def kernel(tmp_path):
    started = []

    def start(mode):
        process = subprocess.Popen([sys.executable, "-c", KERNEL, str(tmp_path), mode])
        started.append(process)
        pids_of(tmp_path, ["ready"])
        names = ("engine", "worker", "mine")
        return process, dict(zip(names, pids_of(tmp_path, names), strict=True))

    yield start
    for process in started:
        process.kill()
        process.wait()
    for name in ("engine", "worker", "mine"):
        if (tmp_path / name).exists():
            pid = int((tmp_path / name).read_text())
            if processes.alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_guard_ends_engine_processes_of_a_killed_kernel_and_nothing_else(kernel, tmp_path):
    process, pids = kernel("guard")
    guards = (tmp_path / "guards").read_text().split()
    assert len(guards) == 1, f"guard_children() twice must start one watcher, not {guards}"
    process.kill()
    process.wait()
    wait_gone([pids["engine"], pids["worker"], int(guards[0])])
    assert processes.alive(pids["mine"]), "the user's own command must be left alone"


def test_orphans_are_listed(kernel):
    process, pids = kernel("no guard")
    before = {o["pid"] for o in processes.find_orphans()}
    assert pids["engine"] not in before, "an engine whose parent lives is no orphan"
    process.kill()
    process.wait()
    time.sleep(0.2)
    orphans = {o["pid"]: o for o in processes.find_orphans()}
    assert {pids["engine"], pids["worker"]} <= set(orphans), f"not found among {orphans}"
    engine = orphans[pids["engine"]]
    assert engine["title"].startswith("VLLM::EngineCore_test") and engine["memory_gib"] > 0.001


def test_one_look_at_all_processes_is_cheap():
    start = time.process_time()
    for _ in range(20):
        processes.descendants(os.getpid())
    assert (time.process_time() - start) / 20 < 0.05, "the watcher looks four times a second"
