"""What several test files share: how they run at a time, Ctrl-C, and one running server."""

import json
import signal
import subprocess
import sys

import hypothesis
import psutil
import pytest

from helpers.gpu_memory import has_gpu

# On a busy machine an example may take long; what an example may take is no test here.
too_slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=too_slow)
hypothesis.settings.load_profile("busy")


def pytest_xdist_auto_num_workers():
    """Three tests at a time: much of one is waiting. A GPU holds one engine, 12 GiB hold two."""
    return 1 if has_gpu() else 3 if psutil.virtual_memory().total > 12 * 2**30 else 2


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard():
    """Ctrl-C is heard in these tests and in programs that they start.

    What a shell starts in the background (`make test &`, nohup) is born deaf to SIGINT, and so are
    its children; a child gets the default back by our handling it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


PARENT = """
import json, sys
from helpers.engine import load_profile
from helpers.server import start_server

server = start_server(load_profile())
about = {
    "url": server.url,
    "key": server.api_key,
    "pids": server.pids,
    "log": str(server.log_path),
    "command": server.command,
    "shown": repr(server),
    "engine_args": server.engine_args,
    "phases": server.startup_phases_s,
    "startup_s": server.startup_s,
}
print(json.dumps(about), flush=True)
sys.stdin.read()  # until the tests end, however they end
"""


class Served:
    """A server whose parent is a process of its own, as a kernel is: tests may kill it."""

    def __init__(self, log):
        with open(log, "w") as errors:
            self.parent = subprocess.Popen(
                [sys.executable, "-c", PARENT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        # Before its own line the parent may say that other notebooks have engines open.
        line = next((line for line in self.parent.stdout if line.startswith("{")), "")
        if not line:
            self.end()
            pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
        self.about = json.loads(line)
        self.pids = self.about["pids"]

    @property
    def server(self):
        from helpers.server import connect

        return connect(self.about["url"], self.about["key"])

    def end(self):
        self.parent.kill()
        self.parent.wait()
        self.parent.stdout.close()
        self.parent.stdin.close()


@pytest.fixture(scope="session")
def _servers(tmp_path_factory):
    running = []
    yield running
    for served in running:
        served.end()


@pytest.fixture
def served(_servers, tmp_path_factory):
    """The session's server; a new one when a test has killed it."""
    if not _servers or _servers[-1].parent.poll() is not None:
        _servers.append(Served(tmp_path_factory.mktemp("server") / "parent.log"))
    return _servers[-1]


@pytest.fixture
def server(served):
    return served.server
