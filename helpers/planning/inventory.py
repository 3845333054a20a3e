"""What this machine has: GPUs, their links, or the CPU's cores; always labelled as present or as simulated.

NVML (through nvitop) answers for NVIDIA GPUs; CUDA is never initialised, so engines can still be forked. Without a
GPU the CPU is what can be run here, and a box from the catalogue is what is planned for.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache

from helpers.gpu_memory import cpu_name

from .errors import PlanningError
from .hardware import GIB, Box, Gpu, Link, get_gpu, make_box

PCIE_LANE_GB_S = {
    1: 0.25,
    2: 0.5,
    3: 0.985,
    4: 1.969,
    5: 3.938,
    6: 7.563,
}  # one lane, one direction


@dataclass(frozen=True)
class Device:
    """One visible GPU or MIG instance. ``memory_gib`` is what the driver reports; empty fields are unknown."""

    index: str
    name: str
    memory_gib: float
    capability: str = ""
    pcie_generation: int | None = None
    pcie_width: int | None = None
    nvlinks: int = 0
    nvlink_generation: int | None = None
    nvlink_gb_s: float | None = None  # all links together, one direction
    numa_node: int | None = None
    mig: bool = False


@dataclass(frozen=True)
class Inventory:
    """What is here. ``links[i][j]``: how GPU i reaches GPU j ("NV18", "PIX", "PXB", "PHB", "NODE", "SYS")."""

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
        return bool(self.devices)


def inventory() -> Inventory:
    """Look at this machine (honours CUDA_VISIBLE_DEVICES and MIG). Never raises: what cannot be read is a note."""
    import psutil

    cpu = dict(
        cpu_name=cpu_name(),
        cpu_cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
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
            devices = tuple(_device(h, notes) for h in handles)
            links = _links(handles, notes)
            driver = str(nvitop.Device.driver_version())
        except (
            Exception
        ) as problem:  # NVML has many error types; an inventory must not stop a lesson
            return Inventory((), notes=(f"The GPUs could not be read ({_words(problem)}).",), **cpu)
    if not devices:
        notes.append("A driver answers, but no GPU is visible: CUDA_VISIBLE_DEVICES hides them.")
    return Inventory(devices, links, driver=driver, notes=tuple(notes), **cpu)


def _device(handle, notes) -> Device:
    import pynvml

    failed = {}

    def ask(what, function, *args):
        try:
            return function(*args)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            return None  # this GPU does not have it, such as an 18th NVLink
        except Exception as problem:
            failed[what] = problem
            return None

    physical = handle.parent if getattr(handle, "is_mig_device", lambda: False)() else handle
    raw = ask("its handle", lambda: physical.handle)
    capability = ask("compute capability", handle.cuda_compute_capability) or ask(
        "compute capability", physical.cuda_compute_capability
    )
    count, generation, rate = 0, None, 0.0
    for link in range(18):
        if ask("NVLinks", pynvml.nvmlDeviceGetNvLinkState, raw, link) == 1:
            count += 1
            generation = ask("NVLinks", pynvml.nvmlDeviceGetNvLinkVersion, raw, link) or generation
    per_link = {1: 20.0, 2: 25.0, 3: 25.0, 4: 25.0, 5: 50.0}
    # NVML counts versions of the protocol, which run ahead of NVLink's generation on newer drivers: cap by lookup.
    rate = count * per_link.get(generation if generation in per_link else 4, 25.0)
    numa = ask("NUMA node", physical.numa_node) if hasattr(physical, "numa_node") else None
    device = Device(
        index=str(handle.index),
        name=str(handle.name()),
        memory_gib=handle.memory_total() / GIB,
        capability=".".join(map(str, capability)) if capability else "",
        pcie_generation=ask("PCIe", pynvml.nvmlDeviceGetMaxPcieLinkGeneration, raw),
        pcie_width=ask("PCIe", pynvml.nvmlDeviceGetMaxPcieLinkWidth, raw),
        nvlinks=count,
        nvlink_generation=generation,
        nvlink_gb_s=rate or None,
        numa_node=numa if isinstance(numa, int) else None,
        mig=physical is not handle,
    )
    if failed:
        notes.append(
            f"GPU {device.index}: {', '.join(failed)} could not be read ({_words(next(iter(failed.values())))})."
        )
    return device


def _words(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"


ANCESTOR = {0: "SELF", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}


def _links(handles, notes) -> tuple:
    """The matrix of `nvidia-smi topo -m`, from NVML: NV# where NVLinks join two GPUs, else the nearest common bridge."""
    import pynvml

    rows, failed = [], []
    for a in handles:
        row = []
        for b in handles:
            if a is b:
                row.append("SELF")
                continue
            text = "?"
            try:
                text = ANCESTOR.get(
                    pynvml.nvmlDeviceGetTopologyCommonAncestor(a.handle, b.handle), "?"
                )
            except Exception as problem:
                failed.append(problem)
            try:
                status = pynvml.nvmlDeviceGetP2PStatus(
                    a.handle, b.handle, pynvml.NVML_P2P_CAPS_INDEX_NVLINK
                )
                if status == 0:
                    text = f"NV{_nvlinks_between(a, b)}"
            except Exception as problem:
                failed.append(problem)
            row.append(text)
        rows.append(tuple(row))
    if failed:
        notes.append(
            f"How the GPUs reach each other could not all be read ({_words(failed[0])}): there may be NVLinks that are not shown."
        )
    return tuple(rows)


def _nvlinks_between(a, b) -> int:
    """Links of ``a`` that end at ``b``; through a switch all of them do."""
    import pynvml

    direct = total = 0
    wanted = pynvml.nvmlDeviceGetPciInfo(b.handle).busId
    for link in range(18):
        with contextlib.suppress(Exception):
            if pynvml.nvmlDeviceGetNvLinkState(a.handle, link) == 1:
                total += 1
                if pynvml.nvmlDeviceGetNvLinkRemotePciInfo(a.handle, link).busId == wanted:
                    direct += 1
    return direct or total


def _numa_nodes() -> int:
    with contextlib.suppress(OSError):
        return max(
            1, sum(name.startswith("node") for name in os.listdir("/sys/devices/system/node"))
        )
    return 1


# ---------------------------------------------------------------------- boxes
def box_here(found: Inventory | None = None) -> Box:
    """This machine's GPUs as a Box (memory as the driver reports it), or its CPU cores when there is no GPU.

    Raises PlanningError for GPUs that the catalogue has no data for, or that differ from each other.
    """
    found = found or inventory()
    if not found.has_gpu:
        return cpu_box(found.cpu_cores)
    names = {d.name for d in found.devices}
    if len(names) > 1:
        raise PlanningError(
            f"The GPUs here differ ({', '.join(sorted(names))}), and the planner plans for equal ones: set "
            "CUDA_VISIBLE_DEVICES to those of one kind."
        )
    first = found.devices[0]
    gpu = get_gpu(first.name)
    gpu = replace(gpu, usable_gib=min(gpu.usable_gib, min(d.memory_gib for d in found.devices)))
    measured = None
    if first.nvlink_gb_s:
        measured = Link(
            f"NVLink ({first.nvlinks} links)",
            max(first.nvlink_gb_s, gpu.link.gb_s if gpu.link else 0),
            len(found.devices),
        )
    pcie = gpu.pcie
    if first.pcie_generation and first.pcie_width:
        rate = PCIE_LANE_GB_S.get(first.pcie_generation, 1.969) * first.pcie_width
        pcie = Link(f"PCIe {first.pcie_generation} x{first.pcie_width}", round(rate, 1))
    gpu = replace(gpu, link=measured if len(found.devices) > 1 else gpu.link, pcie=pcie)
    return Box(gpu, len(found.devices), 1, present=True)


def cpu_box(ranks: int = 1, probe: dict | None = None) -> Box:
    """The CPU as a box of ``ranks`` "GPUs" of one core each: bandwidth and FLOPs of a core as probe_cpu measured them."""
    if not isinstance(ranks, int) or ranks < 1:
        raise PlanningError(f"A plan needs at least 1 rank, and {ranks!r} was given.")
    import psutil

    probe = probe or probe_cpu()
    memory = psutil.virtual_memory().total / GIB
    gpu = Gpu(
        name="CPU",
        full_name=f"CPU ({cpu_name()})",
        memory_gb=memory * GIB / 1e9,
        usable_gib=memory,
        bandwidth_gb_s=probe["bandwidth_gb_s"],
        tflops_16bit=probe["gflops"] / 1e3,
        tflops_fp8=None,
        capability="cpu",
        link=Link("shared memory", probe["copy_gb_s"], 64),
        pcie=Link("shared memory", probe["copy_gb_s"], 64),
        source="measured here by probe_cpu",
        usable_source="this machine's memory",
    )
    return Box(gpu, ranks, 1, present=True)


PROBE = """
import json, sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
def best(f, n=5):
    f(); times = []
    for _ in range(n):
        t = time.perf_counter(); f(); times.append(time.perf_counter() - t)
    return min(times)
big = torch.ones(48 * 2**20, dtype=torch.float32)
other = torch.empty_like(big)
read = best(lambda: big.sum())
copy = best(lambda: other.copy_(big))
a = torch.randn(512, 1024).to(torch.bfloat16); b = torch.randn(1024, 2048).to(torch.bfloat16)
product = best(lambda: a @ b)
print(json.dumps(dict(bandwidth_gb_s=big.numel() * 4 / read / 1e9, copy_gb_s=big.numel() * 4 / copy / 1e9,
                      gflops=2 * 512 * 1024 * 2048 / product / 1e9, threads=int(sys.argv[1]))))
"""


@lru_cache(maxsize=4)
def _probe(threads: int) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, str(threads)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    if result.returncode:
        raise PlanningError(
            f"The CPU could not be probed: {result.stderr.strip()[-200:] or 'the probe stopped'}."
        )
    return result.stdout.strip().splitlines()[-1]


def probe_cpu(threads: int = 1) -> dict:
    """Measure this CPU in about three seconds: {"bandwidth_gb_s", "copy_gb_s", "gflops", "threads"} (bfloat16 products).

    Runs in a child process, so that thread settings of this one stay as they are. Other load on the machine lowers
    the numbers.
    """
    return json.loads(_probe(threads))


# ---------------------------------------------------------------------- the all-reduce, measured
ALLREDUCE_WORKER = """
import json, os, sys, time, torch, torch.distributed as dist
rank, world, port, backend = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
sizes = [int(s) for s in sys.argv[5].split(",")]
torch.set_num_threads(1)
if backend == "nccl":
    torch.cuda.set_device(rank)
device = f"cuda:{rank}" if backend == "nccl" else "cpu"
dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
def once(x):
    dist.all_reduce(x)
    if backend == "nccl":
        torch.cuda.synchronize()
rows = []
for size in sizes:
    x = torch.ones(max(1, size // 2), dtype=torch.bfloat16, device=device)
    for _ in range(3):
        once(x)
    if backend == "nccl":
        count = max(5, min(200, int(2e8 / size)))
        dist.barrier(); torch.cuda.synchronize(); start = time.perf_counter()
        for _ in range(count):
            dist.all_reduce(x)
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) / count
    else:
        start = time.perf_counter(); once(x); once(x)
        # rank 0 says how often, so that all ranks do the same number of calls
        count = torch.tensor([max(5, min(200, int(0.3 / max(1e-5, (time.perf_counter() - start) / 2))))])
        dist.broadcast(count, 0)
        times = []
        for _ in range(count.item()):
            start = time.perf_counter(); once(x); times.append(time.perf_counter() - start)
        seconds = sorted(times)[len(times) // 4]  # other work on the machine only ever adds time
    rows.append({"bytes": max(1, size // 2) * 2, "seconds": seconds})
if rank == 0:
    print(json.dumps(rows), flush=True)
dist.destroy_process_group()
"""


def measure_allreduce(
    world: int = 2, sizes=None, backend: str | None = None, timeout_s: float = 60
) -> list[dict]:
    """Time one all-reduce by payload over ``world`` processes of this machine: NCCL on GPUs, gloo on the CPU.

    Returns rows {"bytes", "seconds"} (mean of a run on GPUs; lower quartile of calls on the CPU). One process per rank; all are gone at the end.
    Raises PlanningError when they cannot start or do not finish in ``timeout_s``.
    """
    found = inventory()
    backend = backend or ("nccl" if len(found.devices) >= world else "gloo")
    if backend == "nccl" and len(found.devices) < world:
        raise PlanningError(
            f"An all-reduce of {world} GPUs needs {world} of them, and {len(found.devices)} are visible: use gloo."
        )
    default = (
        [2**k for k in range(9, 25, 3)] if backend == "gloo" else [2**k for k in range(10, 29, 3)]
    )
    sizes = list(sizes or default)
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if backend == "gloo":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    text = ",".join(str(int(s)) for s in sizes)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ALLREDUCE_WORKER, str(rank), str(world), port, backend, text],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(world)
    ]  # fmt: skip
    deadline = time.monotonic() + timeout_s
    try:
        out, problem = children[0].communicate(timeout=timeout_s)
        for child in children[1:]:
            child.communicate(timeout=max(1.0, deadline - time.monotonic()))
        if children[0].returncode:
            raise PlanningError(
                f"The all-reduce could not be measured: {problem.strip().splitlines()[-1] if problem.strip() else 'a process stopped'}."
            )
        return json.loads(out.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise PlanningError(
            f"The all-reduce of {world} processes did not finish in {timeout_s:.0f} s; nothing was measured."
        ) from None
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.communicate()


def fit_allreduce(rows) -> tuple[float, float]:
    """(latency_s, bytes per second) of time = latency + bytes / rate, fitted to measured rows so that relative errors
    count (small payloads matter as much as large ones)."""
    import numpy as np

    rows = [r for r in rows if r["seconds"] > 0]
    if len(rows) < 2:
        raise PlanningError("A line through all-reduce times needs at least two payloads.")
    x = np.array([[1.0, r["bytes"]] for r in rows])
    y = np.array([r["seconds"] for r in rows])
    solution, *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    latency, slope = max(float(solution[0]), 1e-9), max(float(solution[1]), 1e-15)
    return latency, 1 / slope


__all__ = [
    "Device",
    "Inventory",
    "inventory",
    "box_here",
    "cpu_box",
    "probe_cpu",
    "measure_allreduce",
    "fit_allreduce",
    "make_box",
]
