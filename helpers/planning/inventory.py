"""What this machine has: GPUs, their links, or the CPU's cores.

NVML (through nvitop) answers for NVIDIA GPUs; CUDA is never initialised, so engines can still be
forked. Without a GPU the CPU's cores are what can be run here.
"""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache

from helpers.gpu_memory import cpu_name

from .hardware import GIB, Box, Gpu, Link, PlanningError, get_gpu

# GB/s of one lane in one direction, by PCIe generation; of one NVLink, by NVLink generation.
PCIE_LANE_GB_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
NVLINK_GB_S = {1: 20.0, 2: 25.0, 3: 25.0, 4: 25.0, 5: 50.0}
MOST_NVLINKS = 18  # of one GPU (NVML_NVLINK_MAX_LINKS)
ANCESTOR = {0: "SELF", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}  # as `topo -m`


@dataclass(frozen=True)
class Device:
    """One visible GPU or MIG instance; empty fields are unknown.

    memory_gib: as the driver reports it. nvlink_gb_s: all links together, one direction.
    """

    index: str
    name: str
    memory_gib: float
    capability: str = ""
    pcie_generation: int | None = None
    pcie_width: int | None = None
    nvlinks: int = 0
    nvlink_gb_s: float | None = None
    mig: bool = False


@dataclass(frozen=True)
class Inventory:
    """What is here.

    links: links[i][j] says how GPU i reaches GPU j ("NV18", "PIX", "PXB", "PHB", "NODE", "SYS").
    notes: what could not be read, in sentences.
    """

    devices: tuple
    links: tuple = ()
    cpu_name: str = ""
    cpu_cores: int = 0
    cpu_memory_gib: float = 0.0
    numa_nodes: int = 1
    driver: str = ""
    notes: tuple = field(default_factory=tuple)

    @property
    def has_gpu(self) -> bool:
        """Whether a GPU is visible."""
        return bool(self.devices)


def take_inventory() -> Inventory:
    """Look at this machine (honours CUDA_VISIBLE_DEVICES and MIG).

    Never raises: what cannot be read is a note.
    """
    import psutil

    cpu = dict(
        cpu_name=cpu_name(),
        cpu_cores=len(os.sched_getaffinity(0)),
        cpu_memory_gib=psutil.virtual_memory().total / GIB,
        numa_nodes=_numa_nodes(),
    )
    notes: list[str] = []
    with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
        try:
            import nvitop

            if not nvitop.Device.is_available():
                return Inventory((), notes=("No NVIDIA driver answers on this machine.",), **cpu)
            handles = nvitop.Device.cuda.all()
            devices = tuple(_device(handle, notes) for handle in handles)
            links = _links(handles, notes)
            driver = str(nvitop.Device.driver_version())
        except Exception as problem:  # NVML has many error types, and none must stop a lesson
            return Inventory((), notes=(f"The GPUs could not be read ({_words(problem)}).",), **cpu)
    if not devices:
        notes.append("A driver answers, but no GPU is visible: CUDA_VISIBLE_DEVICES hides them.")
    return Inventory(devices, links, driver=driver, notes=tuple(notes), **cpu)


class _Questions:
    """Questions to NVML: None for what a GPU does not have, and for what failed, which is kept."""

    def __init__(self):
        self.failed: dict[str, Exception] = {}

    def ask(self, what: str, function, *args):
        import pynvml

        try:
            return function(*args)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            return None  # this GPU does not have it, such as an 18th NVLink
        except Exception as problem:
            self.failed[what] = problem
            return None


def _device(handle, notes) -> Device:
    import pynvml

    questions = _Questions()
    ask = questions.ask
    physical = handle.parent if getattr(handle, "is_mig_device", lambda: False)() else handle
    raw = ask("its handle", lambda: physical.handle)
    capability = ask("compute capability", handle.cuda_compute_capability) or ask(
        "compute capability", physical.cuda_compute_capability
    )
    count, generation = 0, None
    for link in range(MOST_NVLINKS):
        if ask("NVLinks", pynvml.nvmlDeviceGetNvLinkState, raw, link) == 1:
            count += 1
            generation = ask("NVLinks", pynvml.nvmlDeviceGetNvLinkVersion, raw, link) or generation
    device = Device(
        index=str(handle.index),
        name=str(handle.name()),
        memory_gib=handle.memory_total() / GIB,
        capability=".".join(map(str, capability)) if capability else "",
        pcie_generation=ask("PCIe", pynvml.nvmlDeviceGetMaxPcieLinkGeneration, raw),
        pcie_width=ask("PCIe", pynvml.nvmlDeviceGetMaxPcieLinkWidth, raw),
        nvlinks=count,
        # NVML counts versions of the protocol, which run ahead of NVLink's generation.
        nvlink_gb_s=count * NVLINK_GB_S.get(generation, 25.0) or None,
        mig=physical is not handle,
    )
    if questions.failed:
        first = _words(next(iter(questions.failed.values())))
        what = ", ".join(questions.failed)
        notes.append(f"GPU {device.index}: {what} could not be read ({first}).")
    return device


def _words(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"


def _links(handles, notes) -> tuple:
    """The matrix of `nvidia-smi topo -m`: NV# where NVLinks join two GPUs, else the bridge."""
    questions = _Questions()
    rows = tuple(
        tuple("SELF" if a is b else _link(a, b, questions.ask) for b in handles) for a in handles
    )
    if questions.failed:
        first = _words(next(iter(questions.failed.values())))
        notes.append(
            f"How the GPUs reach each other could not all be read ({first}): there may be NVLinks "
            "that are not shown."
        )
    return rows


def _link(a, b, ask) -> str:
    import pynvml

    nvlink = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
    if ask("NVLink", pynvml.nvmlDeviceGetP2PStatus, a.handle, b.handle, nvlink) == 0:
        return f"NV{_nvlinks_between(a, b)}"
    bridge = ask("bridge", pynvml.nvmlDeviceGetTopologyCommonAncestor, a.handle, b.handle)
    return ANCESTOR.get(bridge, "?")


def _nvlinks_between(a, b) -> int:
    """Links of ``a`` that end at ``b``; through a switch all of them do."""
    import pynvml

    direct = total = 0
    wanted = pynvml.nvmlDeviceGetPciInfo(b.handle).busId
    for link in range(MOST_NVLINKS):
        with contextlib.suppress(Exception):
            if pynvml.nvmlDeviceGetNvLinkState(a.handle, link) == 1:
                total += 1
                if pynvml.nvmlDeviceGetNvLinkRemotePciInfo(a.handle, link).busId == wanted:
                    direct += 1
    return direct or total


def _numa_nodes() -> int:
    with contextlib.suppress(OSError):
        names = os.listdir("/sys/devices/system/node")
        return max(1, sum(name.startswith("node") for name in names))
    return 1


# ---------------------------------------------------------------------- boxes
def box_here(found: Inventory) -> Box:
    """This machine's GPUs as a Box (memory as the driver reports it), or its CPU cores.

    Raises PlanningError for GPUs that the catalogue has no data for, or that differ.
    """
    if not found.has_gpu:
        return cpu_box(found.cpu_cores)
    names = {d.name for d in found.devices}
    if len(names) > 1:
        raise PlanningError(
            f"The GPUs here differ ({', '.join(sorted(names))}), and the planner plans for equal "
            "ones: set CUDA_VISIBLE_DEVICES to those of one kind."
        )
    first = found.devices[0]
    gpu = get_gpu(first.name)
    usable = min(gpu.usable_gib, min(d.memory_gib for d in found.devices))
    link, pcie = gpu.link, gpu.pcie
    if len(found.devices) > 1:
        link = None
        if first.nvlink_gb_s:
            rate = max(first.nvlink_gb_s, gpu.link.gb_s if gpu.link else 0)
            link = Link(f"NVLink ({first.nvlinks} links)", rate, len(found.devices))
    if first.pcie_generation and first.pcie_width:
        rate = PCIE_LANE_GB_S.get(first.pcie_generation, 1.969) * first.pcie_width
        pcie = Link(f"PCIe {first.pcie_generation} x{first.pcie_width}", round(rate, 1))
    gpu = replace(gpu, usable_gib=usable, link=link, pcie=pcie)
    return Box(gpu, len(found.devices), present=True)


def cpu_box(ranks: int = 1, probe: dict | None = None) -> Box:
    """The CPU as a box of ``ranks`` "GPUs" of one core each.

    probe: what ``probe_cpu`` measured, on this machine or on a recorded one; None: measure now.
    """
    if not isinstance(ranks, int) or ranks < 1:
        raise PlanningError(f"A plan needs at least 1 rank, and {ranks!r} was given.")
    import psutil

    probe = probe or probe_cpu()
    memory = psutil.virtual_memory().total
    between = Link("shared memory", probe["copy_gb_s"], 64)
    gpu = Gpu(
        name="CPU",
        full_name=f"CPU ({cpu_name()})",
        memory_gb=memory / 1e9,
        usable_gib=memory / GIB,
        bandwidth_gb_s=probe["bandwidth_gb_s"],
        tflops_16bit=probe["gflops"] / 1e3,
        capability="cpu",
        link=between,
        pcie=between,
        source="measured here by probe_cpu",
    )
    return Box(gpu, ranks, present=True)


@lru_cache(maxsize=1)
def probe_cpu() -> dict:
    """Measure a core in about three seconds, once: {"bandwidth_gb_s", "copy_gb_s", "gflops"}.

    Reading memory, copying it (bytes copied, not read plus written), and bfloat16 products, in a
    child process, so that thread settings of this one stay as they are. Other load on the machine
    lowers the numbers. Raises PlanningError when the child fails.
    """
    result = subprocess.run(
        [sys.executable, "-m", "helpers.lessons.machine_limits", "cpu"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    if result.returncode:
        why = result.stderr.strip()[-200:] or "the probe stopped"
        raise PlanningError(f"The CPU could not be probed: {why}.")
    limits = json.loads(result.stdout.strip().splitlines()[-1])
    return {
        "bandwidth_gb_s": limits["read_gb_per_s"],
        "copy_gb_s": limits["copy_gb_per_s"] / 2,
        "gflops": limits["tflop_per_s"] * 1e3,
    }
