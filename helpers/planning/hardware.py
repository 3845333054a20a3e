"""What a GPU can do: the catalogue, and boxes made of several equal GPUs.

The numbers live in ``hardware.json``, each entry with its source and its doubts. A GPU that is not
there is "no data": the planner refuses instead of guessing, and says how to add it.
"""

import json
import math
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from helpers import OneLineError

GIB = 2**30
CATALOGUE_FILE = Path(__file__).with_name("hardware.json")
NUMBERS = ("memory_gb", "bandwidth_gb_s", "tflops_16bit")  # that every entry has
NETWORK_GB_S = 50.0  # of one GPU between machines, one direction: an adapter of 400 Gb/s for each


class PlanningError(OneLineError, ValueError):
    """Raised for input that cannot be planned for: one sentence, the cause and what would work.

    nearest: flags of the command that would work instead, such as "--tp 4"; "" when none is known.
    """

    def __init__(self, sentence: str, nearest: str = ""):
        super().__init__(sentence)
        self.nearest = nearest


def read_pairs(option: str, text: str, keys, example: str, needed=()) -> dict[str, str]:
    """The {key: value} of 'key=value,key=value'; raises PlanningError for other keys than these."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    said = {key.strip(): value.strip() for key, _, value in pairs}
    if set(needed) <= set(said) <= set(keys) and all(said.values()):
        return said
    raise PlanningError(
        f"{option} cannot read {text!r}: write pairs of {', '.join(keys)}, such as {example}."
    )


# By the first number of the compute capability.
FAMILIES = {"cpu": "cpu", "7": "volta", "8": "ampere", "9": "hopper"}
FAMILIES |= {"10": "blackwell", "12": "blackwell"}


@dataclass(frozen=True)
class Link:
    """A way between GPUs.

    ``gb_s``: GB/s (1e9 bytes) of one GPU in one direction. ``spans``: how many GPUs it joins
    directly.
    """

    kind: str
    gb_s: float
    spans: int = 8


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    ``usable_gib`` is what the driver reports to CUDA (``memory_gb`` is the vendor's figure, in GB);
    ``bandwidth_gb_s`` is the memory's; FLOPs are dense TFLOP/s.
    """

    name: str
    full_name: str
    memory_gb: float
    usable_gib: float
    bandwidth_gb_s: float
    tflops_16bit: float
    link: Link | None
    pcie: Link
    tflops_fp8: float | None = None
    capability: str = "unknown"
    source: str = ""
    doubts: dict = field(default_factory=dict)
    tflops_fp4: float | None = None
    between: dict = field(default_factory=dict)  # {name of a number: (lowest, highest) quoted}

    @property
    def usable_bytes(self) -> int:
        """Memory that the driver reports, in bytes."""
        return int(self.usable_gib * GIB)

    @property
    def family(self) -> str:
        """Which set of measured constants applies: 'hopper', 'ampere', ... or 'cpu'."""
        return FAMILIES.get(self.capability.split(".")[0], "other")

    def flops(self, kernel: str) -> float:
        """FLOP/s of the kernels that vLLM multiplies with.

        "16bit"; "fp8" and "nvfp4" where the GPU multiplies in that format, else, as for weights of
        few bits ("w4a16", ...), in 16 bits after unpacking them (Marlin). Raises PlanningError
        ("no data") for other kernels.
        """
        fast = {"fp8": self.tflops_fp8, "nvfp4": self.tflops_fp4}
        if kernel == "mxfp8" and self.tflops_fp4:
            return self.tflops_fp8 * 1e12
        if fast.get(kernel):
            return fast[kernel] * 1e12
        # Marlin's kernels for fp8 and nvfp4 weights need an NVIDIA GPU from Ampere on.
        marlin = kernel in fast and self.family in ("ampere", "hopper", "blackwell")
        if kernel == "16bit" or kernel.endswith("a16") or marlin:
            return self.tflops_16bit * 1e12
        raise PlanningError(
            f"No data for the speed of {kernel} on {self.name}: the planner has it for 16 bits, "
            "fp8, nvfp4, mxfp4 and weights of 4 or 8 bits with activations of 16."
        )

    def knee(self) -> float:
        """Tokens in a batch at which 16-bit products take as long as reading their weights."""
        return self.tflops_16bit * 1e12 / (self.bandwidth_gb_s * 1e9)


def _squash(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _gpu_from(name: str, entry: dict) -> Gpu:
    try:
        number = {key: float(entry[key]) for key in NUMBERS}
        usable_gib = float(entry.get("usable_gib") or number["memory_gb"] * 1e9 / GIB * 0.98)
        links = {"link": Link(**entry["link"]) if entry.get("link") else None}
        links["pcie"] = Link(**entry.get("pcie", {"kind": "PCIe 4 x16", "gb_s": 32}))
        said = {key: value for key, value in entry.items() if key in Gpu.__dataclass_fields__}
        said = {"full_name": name, **said} | number | links
        return Gpu(name=name, **said | {"usable_gib": usable_gib})
    except (KeyError, TypeError, ValueError) as problem:
        raise PlanningError(
            f"The hardware entry {name!r} is not usable ({problem!r}): it needs memory_gb, "
            "bandwidth_gb_s and tflops_16bit as numbers."
        ) from None


@lru_cache(maxsize=1)
def _entries() -> dict[str, dict]:
    """What ``hardware.json`` says, and what is added in this process."""
    return json.loads(CATALOGUE_FILE.read_text())["gpus"]


def catalogue() -> dict[str, Gpu]:
    """All known GPUs by name."""
    return {name: _gpu_from(name, entry) for name, entry in _entries().items()}


def add_gpu(name: str, *, source: str, **entry) -> Gpu:
    """Add a GPU that the catalogue has no data for; ``source`` says where the numbers come from.

    entry: memory_gb, bandwidth_gb_s, tflops_16bit, and what else an entry of ``hardware.json`` may
    have. Raises PlanningError for numbers that are not positive.
    """
    for key in NUMBERS:
        if not isinstance(entry.get(key), (int, float)) or not entry[key] > 0:
            raise PlanningError(f"A GPU needs a positive {key}, and {entry.get(key)!r} is not one.")
    gpu = _gpu_from(name, {**entry, "source": source})
    _entries()[name] = {**entry, "source": source}
    return gpu


def load_hardware(path) -> list[Gpu]:
    """Add the GPUs of a JSON file with the layout of ``hardware.json``.

    Raises PlanningError when the file cannot be read or an entry is not usable.
    """
    try:
        entries = json.loads(Path(path).read_text())
        entries = entries.get("gpus", entries)
        return [add_gpu(name, **{"source": str(path), **entry}) for name, entry in entries.items()]
    except PlanningError:
        raise
    except (OSError, ValueError, AttributeError, TypeError) as problem:
        raise PlanningError(f"The hardware file {path} cannot be read: {problem}.") from None


def get_gpu(name: str | Gpu, usable_gib: float | None = None) -> Gpu:
    """Look a GPU up by its catalogue name, an alias, or the name that the driver gives it.

    usable_gib: memory as the driver of that machine reports it, instead of the catalogue's.
    Raises PlanningError ("no data") for a GPU that is not in the catalogue.
    """
    gpu = name if isinstance(name, Gpu) else _look_up(str(name))
    if usable_gib is None:
        return gpu
    if not usable_gib > 0:
        raise PlanningError(
            f"A GPU with {usable_gib} GiB of memory cannot hold a model: give what nvidia-smi "
            f"reports, about {gpu.usable_gib:.1f} GiB for {gpu.name}."
        )
    return replace(gpu, usable_gib=usable_gib)


def _look_up(name: str) -> Gpu:
    entries = _entries()
    wanted = _squash(name).removeprefix("nvidia")
    for key, entry in entries.items():
        names = [key, entry.get("full_name", key), *entry.get("aliases", ())]
        if wanted and wanted in {_squash(n).removeprefix("nvidia") for n in names}:
            return _gpu_from(key, entry)
    known = {_squash(key): key for key in sorted(entries)}
    near = [known[n] for n in get_close_matches(wanted, known, 3, 0.3)] or sorted(entries)[:3]
    raise PlanningError(
        f"No data for the GPU {name!r}: the nearest that the catalogue has is "
        f"{' or '.join(near)}; add yours with helpers.planning.add_gpu(name, memory_gb=..., "
        "bandwidth_gb_s=..., tflops_16bit=..., source=...) or --hardware FILE.",
        f"--gpu {near[0]}",
    )


@dataclass(frozen=True)
class Box:
    """``gpus`` equal GPUs in ``nodes`` machines; ``present``: they are those of this machine."""

    gpu: Gpu
    gpus: int = 1
    nodes: int = 1
    present: bool = False
    network_gb_s: float = NETWORK_GB_S

    @property
    def gpus_per_node(self) -> int:
        """GPUs in one machine."""
        return self.gpus // self.nodes

    def link_for(self, ranks: int) -> Link:
        """The slowest link that a group of ``ranks`` neighbouring GPUs must use."""
        if ranks > self.gpus_per_node:
            return Link("network between machines", self.network_gb_s, self.gpus)
        if self.gpu.link is not None and ranks <= self.gpu.link.spans:
            return self.gpu.link
        return self.gpu.pcie

    def label(self) -> str:
        """The box in words, such as "2 x NVIDIA H200 SXM (not present here)"."""
        where = "" if self.present else " (not present here)"
        nodes = f" in {self.nodes} machines" if self.nodes > 1 else ""
        return f"{self.gpus} x {self.gpu.full_name}{nodes}{where}"


def make_box(
    gpu: str | Gpu, gpus: int = 1, nodes: int = 1, *, usable_gib=None, network_gb_s=NETWORK_GB_S
) -> Box:
    """A box of ``gpus`` GPUs in all, spread evenly over ``nodes`` machines.

    network_gb_s: between machines, GB/s of one GPU in one direction (400 Gb/s for each: 50).
    Raises PlanningError for an unknown GPU and for numbers that make no box.
    """
    gpu = get_gpu(gpu, usable_gib)
    if not isinstance(gpus, int) or isinstance(gpus, bool) or gpus < 1:
        raise PlanningError(f"A plan needs at least 1 GPU, and {gpus!r} was given.")
    if not isinstance(nodes, int) or nodes < 1 or gpus % nodes:
        raise PlanningError(
            f"{gpus} GPUs cannot be spread evenly over {nodes} machines: give a number of machines "
            f"that divides {gpus}."
        )
    if not 0 < network_gb_s < math.inf:
        raise PlanningError(
            f"The network between machines needs a rate above 0 GB/s, and {network_gb_s!r} was "
            "given."
        )
    return Box(gpu, gpus, nodes, network_gb_s=network_gb_s)
