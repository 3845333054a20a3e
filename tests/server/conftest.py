"""One running server for the tests of this room."""

import json
import subprocess
import sys

import pytest

from helpers.server import connect

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
        return connect(self.about["url"], self.about["key"])

    def end(self):
        self.parent.kill()
        self.parent.wait()
        self.parent.stdout.close()
        self.parent.stdin.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    one = Served(tmp_path_factory.mktemp("server") / "parent.log")
    yield one
    one.end()


@pytest.fixture
def server(served):
    return served.server
