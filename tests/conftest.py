"""What all tests share: how many run at a time, and Ctrl-C."""

import signal

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
