"""These tests need an NVIDIA GPU; without one they are skipped, and say so."""

import pytest

from helpers.gpu_memory import has_gpu


def pytest_collection_modifyitems(items):
    if has_gpu():
        return
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(
                pytest.mark.skip(
                    reason="needs an NVIDIA GPU; its benchmarks can be rehearsed on the CPU"
                )
            )
