"""Batching: which requests share a step, and when each token comes out.

Papers: Yu et al., "Orca", OSDI 2022 (iteration-level scheduling, selective batching) and Agrawal et
al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024, arXiv
2403.02310 (chunked prefills, stall-free batches).

| policy | a request joins | prompts |
|---|---|---|
| static | when the whole batch before it has ended and a full batch is there | whole |
| dynamic | the same, but waits at most `MAX_WAIT_S` for a full batch | whole |
| iteration | at any step with a free place (Orca) | whole, beside the others' tokens |
| prefill_first | at any step with a free place | whole, in a step of their own: the others stall |
| stall_free | at any step with a free place | in chunks: what `token_budget` leaves |
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

POLICIES = ("static", "dynamic", "iteration", "prefill_first", "stall_free")
MAX_WAIT_S = 0.05  # that a dynamic batch waits to be full

# Orca's abstract, printed: over FasterTransformer at the same latency, GPT-3 175B.
ORCA_THROUGHPUT_X = 36.9


@dataclass(frozen=True)
class Arrival:
    """One request: seconds after the start, tokens of prompt and answer."""

    arrival_s: float
    prompt: int
    output: int


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step: the larger of reading weights and computing tokens, plus a fixed part.

    The defaults are a 7B model in bfloat16 on a GPU with 2 TB/s and 312 TFLOP/s (A100):
    14 GB / 2 TB/s, and 2 * 7e9 / 312e12 a token. Attention's own work and reading the KV cache are
    left out.
    """

    weights_s: float = 0.007
    per_token_s: float = 4.5e-5
    fixed_s: float = 0.001

    def __call__(self, tokens: int) -> float:
        """Seconds of a step that processes so many tokens."""
        return self.fixed_s + max(self.weights_s, tokens * self.per_token_s)


@dataclass
class Served:
    """What happened to one request: `token_s` holds the time of each of its tokens."""

    request: Arrival
    token_s: list[float] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        """Seconds from its arrival to its first token."""
        return self.token_s[0] - self.request.arrival_s

    @property
    def e2e_s(self) -> float:
        """Seconds from its arrival to its last token."""
        return self.token_s[-1] - self.request.arrival_s

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between its tokens (the papers' time between tokens, vLLM's ITL)."""
        return list(np.diff(self.token_s))

    @property
    def ended(self) -> bool:
        """Whether its last token is there."""
        return len(self.token_s) >= self.request.output


@dataclass(frozen=True)
class Step:
    """One step: when it began and how long it took, and what it processed."""

    start_s: float
    duration_s: float
    prompt_tokens: int
    decode_tokens: int
    requests: tuple[int, ...]
    held: int  # places taken in the batch, also by requests that have ended (static, dynamic)


@dataclass(frozen=True)
class Schedule:
    """What became of every request, and every step."""

    served: list[Served]
    steps: list[Step]

    @property
    def duration_s(self) -> float:
        """The end of the last step."""
        return self.steps[-1].start_s + self.steps[-1].duration_s if self.steps else 0.0

    def metrics(self) -> dict[str, float]:
        """Under the names that the measurements of the real engine use."""
        ttft = [1000 * s.ttft_s for s in self.served]
        gaps = [1000 * g for s in self.served for g in s.gaps_s] or [0.0]
        return {
            "output_tokens_per_s": sum(len(s.token_s) for s in self.served) / self.duration_s,
            "ttft_ms_p50": float(np.percentile(ttft, 50)),
            "ttft_ms_p99": float(np.percentile(ttft, 99)),
            "itl_ms_p99": float(np.percentile(gaps, 99)),
            "itl_ms_max": float(max(gaps)),
        }


def draw_arrivals(
    n: int,
    rate_per_s: float | None,
    prompt: tuple[int, int],
    output: tuple[int, int],
    seed: int = 0,
) -> list[Arrival]:
    """`n` requests with lengths uniform in the two ranges and exponential gaps between arrivals.

    rate_per_s: arrivals a second; None: all there at the start.
    """
    rng = np.random.default_rng(seed)
    times = np.zeros(n) if rate_per_s is None else np.cumsum(rng.exponential(1 / rate_per_s, n))
    prompts = rng.integers(prompt[0], prompt[1] + 1, n)
    outputs = rng.integers(output[0], output[1] + 1, n)
    drawn = zip(times, prompts, outputs, strict=True)
    return [Arrival(float(t), int(p), int(o)) for t, p, o in drawn]


def simulate_schedule(
    requests: list[Arrival],
    policy: str,
    cost: Callable[[int], float] = StepCost(),  # noqa: B008 (frozen)
    max_batch: int = 8,
    token_budget: int = 512,
) -> Schedule:
    """Serve `requests` under a policy of the module's table; the memory is never short.

    The step that processes the last token of a prompt also yields the first token of the answer.
    cost: seconds of a step by its tokens. A batch is at most `max_batch` requests. `token_budget`
    (stall_free only) must be larger than `max_batch`, or no prompt could advance.

    Raises ValueError for an unknown policy, an empty answer or a budget that is too small.
    """
    _check(requests, policy, max_batch, token_budget)
    in_batches = policy in ("static", "dynamic")
    waiting = deque(sorted(range(len(requests)), key=lambda i: (requests[i].arrival_s, i)))
    served = [Served(r) for r in requests]
    prompt_left = [r.prompt for r in requests]
    batch: list[int] = []
    steps: list[Step] = []
    now = 0.0
    while waiting or batch:
        if not batch:
            first = max(now, requests[waiting[0]].arrival_s)
            now = _batch_ready(requests, waiting, first, max_batch, policy) if in_batches else first
        if not batch or not in_batches:
            while waiting and len(batch) < max_batch and requests[waiting[0]].arrival_s <= now:
                batch.append(waiting.popleft())

        alive = [i for i in batch if not served[i].ended]
        decoding = [i for i in alive if prompt_left[i] == 0]
        prefilling = [i for i in alive if prompt_left[i]]
        if policy == "prefill_first" and prefilling:
            decoding = []
        budget = token_budget - len(decoding) if policy == "stall_free" else None
        parts = _prompt_parts(prefilling, prompt_left, budget)
        prompt_tokens = sum(parts.values())
        seconds = cost(len(decoding) + prompt_tokens)
        members = tuple(sorted([*decoding, *parts]))
        steps.append(Step(now, seconds, prompt_tokens, len(decoding), members, len(batch)))
        now += seconds
        for i, taken in parts.items():
            prompt_left[i] -= taken
        for i in [*decoding, *(i for i in parts if prompt_left[i] == 0)]:
            served[i].token_s.append(now)
        left = [i for i in batch if not served[i].ended]
        # A formed batch keeps its places until its last request ends.
        batch = batch if in_batches and left else left
    return Schedule(served, steps)


def _check(requests, policy, max_batch, token_budget) -> None:
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is not one of {', '.join(POLICIES)}")
    if any(r.output < 1 or r.prompt < 1 for r in requests):
        raise ValueError("every request needs at least one prompt token and one answer token")
    if policy == "stall_free" and token_budget <= max_batch:
        room = f"no room for prompts beside {max_batch} running requests"
        raise ValueError(f"token_budget {token_budget} leaves {room}")


def _prompt_parts(prefilling, prompt_left, budget: int | None) -> dict[int, int]:
    """Prompt tokens that each request gets in this step; budget None: whole prompts."""
    parts: dict[int, int] = {}
    for i in prefilling:
        taken = prompt_left[i] if budget is None else min(prompt_left[i], budget)
        if taken:
            parts[i] = taken
            budget = None if budget is None else budget - taken
    return parts


def _batch_ready(requests, waiting, first: float, max_batch: int, policy: str) -> float:
    """When a waiting batch may start: full (or all have come); a dynamic one waits MAX_WAIT_S."""
    full = requests[waiting[min(max_batch, len(waiting)) - 1]].arrival_s
    if policy == "dynamic":
        full = min(full, requests[waiting[0]].arrival_s + MAX_WAIT_S)
    return max(first, full)


def wave_slots_used(outputs: list[int], batch: int) -> float:
    """Fraction of a static batch's places that still generate, over its waves.

    The sum of the answers / (batch * longest). This alone gives the ratio of steps between waves
    and continuous admission when decoding costs the same whatever the batch; arrivals, prompts and
    the last, half-empty wave move it.
    """
    waves = [outputs[i : i + batch] for i in range(0, len(outputs), batch)]
    return sum(outputs) / sum(batch * max(w) for w in waves)
