"""PagedAttention: how much memory a KV cache needs, and how much of it three allocators waste.

Paper: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", SOSP 2023, arXiv 2309.06180. Numbers marked "printed" are the paper's; the rest is
computed here. The fourth allocator, the paged one, stands in notebook 3.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

CONTIGUOUS = ("max", "pow2", "oracle")
MAX_LEN = 2048  # of OPT: prompt and answer

OPT_13B_SLOTS = 15_729  # of 800 KiB, in the 12 GB that Table 1 gives it

# Figure 2, printed: percent of the KV-cache memory, averaged over the run. The paper gives only the
# first number for vLLM; what is left of 100 is 3.7.
FIGURE_2 = {
    "max": {"tokens": 20.4, "reserved": 13.3, "internal": 57.3, "external": 8.9},
    "pow2": {"tokens": 26.8, "reserved": 17.9, "internal": 13.6, "external": 41.6},
    "oracle": {"tokens": 38.2, "reserved": 25.2, "internal": 0.0, "external": 36.6},
    "paged": {"tokens": 96.3},
}

# Figure 11, printed: mean tokens of prompt and answer in the ShareGPT trace. The answers' spread
# (standard deviation / mean) follows from Figure 2: with reserved maxima 7 requests hold 20.4 % of
# the slots, so one holds E[in] + E[out^2] / (2 E[out]) = 458 tokens.
SHAREGPT = {"input": 161.31, "output": 337.99, "output_cv": 0.87}

# Figure 13, printed: requests batched on average, OPT-13B, ShareGPT at 2 requests/s.
FIGURE_13 = {"max": 7.00, "pow2": 9.81, "oracle": 13.62, "paged": 30.42}


def kv_bytes_per_token(layers: int, kv_width: int) -> int:
    """Bytes that one token keeps in the KV cache: a key and a value per layer (section 3).

    In two-byte numbers. `kv_width` is KV heads times head size: the hidden size where every head
    has its own keys and values (OPT), less with grouped heads (Qwen2.5).
    """
    return 2 * layers * kv_width * 2


@dataclass(frozen=True)
class Lengths:
    """One request of a trace: tokens of the prompt and of the answer."""

    prompt: int
    output: int

    @property
    def total(self) -> int:
        """Tokens that it holds at its end."""
        return self.prompt + self.output


def draw_lengths(n: int, seed: int = 0) -> list[Lengths]:
    """`n` requests whose mean lengths match the ShareGPT trace before cutting to `MAX_LEN`.

    Gamma distributed: the traces themselves are not shipped, and the paper prints only their means
    and histograms. Prompts spread by their mean.
    """
    rng = np.random.default_rng(seed)

    def gamma(average, cv):
        shape = 1 / cv**2
        return np.maximum(1, np.rint(rng.gamma(shape, average / shape, n))).astype(int)

    prompts = np.minimum(gamma(SHAREGPT["input"], 1.0), MAX_LEN - 1)
    answers = gamma(SHAREGPT["output"], SHAREGPT["output_cv"])
    outputs = np.minimum(answers, MAX_LEN - prompts)
    return [Lengths(int(p), int(o)) for p, o in zip(prompts, outputs, strict=True)]


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n` (1 for 0)."""
    return 1 << max(0, n - 1).bit_length()


class BuddyPool:
    """Contiguous slots handed out in powers of two (section 6.1 assumes this for Orca).

    The pool need not be a power of two: it starts as the largest ones that fit into it.
    """

    def __init__(self, total: int):
        self.total = total
        self.free: dict[int, set[int]] = {}  # size -> starting slots
        start = 0
        for bit in range(total.bit_length() - 1, -1, -1):
            if total >> bit & 1:
                self.free.setdefault(1 << bit, set()).add(start)
                start += 1 << bit

    def allocate(self, slots_wanted: int) -> tuple[int, int] | None:
        """(start, size) of a chunk of at least `slots_wanted`, or None when none is free."""
        size = next_power_of_two(slots_wanted)
        fitting = [s for s, starts in self.free.items() if s >= size and starts]
        if not fitting:
            return None
        have = min(fitting)
        start = min(self.free[have])
        self.free[have].discard(start)
        while have > size:  # split: keep the lower half, free the upper
            have //= 2
            self.free.setdefault(have, set()).add(start + have)
        return start, size

    def release(self, chunk: tuple[int, int]) -> None:
        """Give a chunk back and join it with its free neighbour, as far as that goes."""
        start, size = chunk
        while start ^ size in self.free.get(size, ()):
            self.free[size].discard(start ^ size)
            start, size = min(start, start ^ size), size * 2
        self.free.setdefault(size, set()).add(start)

    @property
    def free_slots(self) -> int:
        """Slots in all free chunks."""
        return sum(size * len(starts) for size, starts in self.free.items())


@dataclass
class Running:
    """A request at work: its tokens now, and at its end."""

    held: int
    end: int


@dataclass(frozen=True)
class Usage:
    """Where the pool went, as fractions averaged over the steps that were counted."""

    tokens: float  # holds keys and values
    reserved: float  # will hold them before the request ends
    internal: float  # belongs to a request that will never fill it
    external: float  # free, or lost to rounding a chunk up to a power of two
    mean_running: float
    steps: int
    finished: int

    def as_percent(self) -> dict[str, float]:
        """The four parts in percent, under the names of `FIGURE_2`."""
        return {k: 100 * getattr(self, k) for k in ("tokens", "reserved", "internal", "external")}


class Tally:
    """Sums over the steps that are counted."""

    def __init__(self, pool_slots: int):
        self.pool_slots = pool_slots
        self.sums, self.steps, self.finished = np.zeros(5), 0, 0

    def count(self, running: list[tuple[int, int, int]]) -> None:
        """One step. running: of each request the tokens held, those at its end, its slots."""
        held, given = sum(one[0] for one in running), sum(one[2] for one in running)
        filled = sum(min(end, slots) for _, end, slots in running)  # before they end
        free = self.pool_slots - given
        self.sums += (held, filled - held, given - filled, free, len(running))
        self.steps += 1

    def usage(self) -> Usage:
        """The averages."""
        steps = max(1, self.steps)
        parts = map(float, self.sums[:4] / (steps * self.pool_slots))
        running = float(self.sums[4] / steps)
        return Usage(*parts, running, self.steps, self.finished)


def _asked_slots(policy: str, request: Lengths, max_len: int) -> int:
    """Slots that a contiguous policy asks for when the request is admitted (section 6.1)."""
    if policy == "max":
        return max_len
    if policy == "pow2":
        return min(max_len, request.prompt + next_power_of_two(request.output))
    return request.total


@dataclass
class _Contiguous:
    request: Lengths
    chunk: tuple[int, int]
    asked: int
    held: int  # tokens


def simulate_contiguous(
    requests: list[Lengths], policy: str, pool_slots: int = OPT_13B_SLOTS, max_len: int = MAX_LEN
) -> Usage:
    """Run requests through a KV pool, first come first served, one token per request and step.

    All requests wait at the start and one is admitted as soon as its memory is there (the loaded
    server of Figure 2), and takes all of it. Only the steps until the queue first runs empty are
    counted: what follows is the end of the experiment.

    Raises ValueError for an unknown policy or a request that can never fit.
    """
    if policy not in CONTIGUOUS:
        raise ValueError(f"policy {policy!r} is not one of {', '.join(CONTIGUOUS)}")
    too_long = max((r.total for r in requests), default=0)
    if too_long > max_len:
        raise ValueError(f"a request of {too_long} tokens is longer than {max_len}")
    waiting, pool, tally = deque(requests), BuddyPool(pool_slots), Tally(pool_slots)
    running: list[_Contiguous] = []
    while waiting or running:
        while waiting:
            asked = _asked_slots(policy, waiting[0], max_len)
            chunk = pool.allocate(asked)
            if chunk is None:
                break
            request = waiting.popleft()
            running.append(_Contiguous(request, chunk, asked, request.prompt))
        if not running:
            raise ValueError(f"a request for {asked} slots never fits a pool of {pool_slots}")
        if waiting:  # counted: the pool is under pressure
            tally.count([(one.held, one.request.total, one.asked) for one in running])
        for one in running:
            one.held += 1
            if one.held >= one.request.total:
                pool.release(one.chunk)
                tally.finished += 1
        running = [one for one in running if one.held < one.request.total]
    assert pool.free_slots == pool_slots, "the buddy pool lost slots"
    return tally.usage()
