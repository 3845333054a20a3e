"""Batching: which requests share a step, and when each token comes out.

Papers: Yu et al., "Orca", OSDI 2022 (iteration-level scheduling, selective batching) and Agrawal et al.,
"Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024, arXiv 2403.02310
(chunked prefills, stall-free batches).

| policy | a request joins | prompts |
|---|---|---|
| static | when the whole batch before it has ended and a full batch has come together | whole |
| dynamic | when the whole batch before it has ended; does not wait for a full batch longer than `max_wait_s` | whole |
| iteration | at any step with a free place (Orca) | whole, in the same step as the others' tokens |
| prefill_first | at any step with a free place | whole, in a step of their own: the others stall |
| stall_free | at any step with a free place | in chunks: what `token_budget` leaves after everybody's next token |
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

POLICIES = ("static", "dynamic", "iteration", "prefill_first", "stall_free")

# The abstract, printed.
ORCA_CLAIM = {
    "throughput_x": 36.9,
    "model": "GPT-3 175B",
    "against": "FasterTransformer, at the same latency",
}


@dataclass(frozen=True)
class Arrival:
    """One request: seconds after the start, tokens of prompt and answer."""

    arrival_s: float
    prompt: int
    output: int


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step: the larger of reading the weights and computing the tokens, plus a fixed part.

    The defaults are a 7B model in bfloat16 on a GPU with 2 TB/s and 312 TFLOP/s (A100): 14 GB / 2 TB/s, and
    2 * 7e9 / 312e12 a token. Attention's own work and reading the KV cache are left out.
    """

    weights_s: float = 0.007
    per_token_s: float = 4.5e-5
    fixed_s: float = 0.001

    def __call__(self, tokens: int) -> float:
        return self.fixed_s + max(self.weights_s, tokens * self.per_token_s)


@dataclass
class Served:
    """What happened to one request: `token_s` holds the time of each of its tokens."""

    request: Arrival
    token_s: list[float] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.request.arrival_s

    @property
    def e2e_s(self) -> float:
        return self.token_s[-1] - self.request.arrival_s

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between its tokens (the papers' time between tokens, vLLM's ITL)."""
        return list(np.diff(self.token_s))


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
    policy: str
    served: list[Served]
    steps: list[Step]

    @property
    def duration_s(self) -> float:
        return self.steps[-1].start_s + self.steps[-1].duration_s if self.steps else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        return sum(len(s.token_s) for s in self.served) / self.duration_s

    def metrics(self) -> dict[str, float]:
        """Under the names that the measurements of the real engine use."""
        ttft = [1000 * s.ttft_s for s in self.served]
        gaps = [1000 * g for s in self.served for g in s.gaps_s] or [0.0]
        return {
            "duration_s": self.duration_s,
            "output_tokens_per_s": self.output_tokens_per_s,
            "ttft_ms_p50": float(np.percentile(ttft, 50)),
            "ttft_ms_p99": float(np.percentile(ttft, 99)),
            "itl_ms_p50": float(np.percentile(gaps, 50)),
            "itl_ms_p99": float(np.percentile(gaps, 99)),
            "itl_ms_max": float(max(gaps)),
            "mean_batch": float(
                np.average(
                    [len(s.requests) for s in self.steps],
                    weights=[s.duration_s for s in self.steps],
                )
            ),
            "steps": len(self.steps),
        }


def poisson_arrivals(
    n: int,
    rate_per_s: float | None,
    prompt: tuple[int, int] = (64, 512),
    output: tuple[int, int] = (8, 128),
    seed: int = 0,
) -> list[Arrival]:
    """`n` requests with lengths uniform in the two ranges; `rate_per_s` None: all there at the start."""
    rng = np.random.default_rng(seed)
    times = np.zeros(n) if rate_per_s is None else np.cumsum(rng.exponential(1 / rate_per_s, n))
    prompts, outputs = (
        rng.integers(prompt[0], prompt[1] + 1, n),
        rng.integers(output[0], output[1] + 1, n),
    )
    return [Arrival(float(t), int(p), int(o)) for t, p, o in zip(times, prompts, outputs)]


def simulate_schedule(
    requests: list[Arrival],
    policy: str,
    cost: StepCost = StepCost(),
    max_batch: int = 8,
    token_budget: int = 512,
    max_wait_s: float = 0.05,
) -> Schedule:
    """Serve `requests` under a policy of the module's table; the memory is never short.

    The step that processes the last token of a prompt also yields the first token of the answer. A batch is
    at most `max_batch` requests. `token_budget` (stall_free only) must be larger than `max_batch`, or no
    prompt could advance.

    Raises ValueError for an unknown policy, an empty answer or a budget that is too small.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is not one of {', '.join(POLICIES)}")
    if any(r.output < 1 or r.prompt < 1 for r in requests):
        raise ValueError("every request needs at least one prompt token and one answer token")
    if policy == "stall_free" and token_budget <= max_batch:
        raise ValueError(
            f"token_budget {token_budget} leaves no room for prompts beside {max_batch} running requests"
        )
    order = sorted(range(len(requests)), key=lambda i: (requests[i].arrival_s, i))
    waiting = deque(order)
    served = [Served(r) for r in requests]
    prompt_left = [r.prompt for r in requests]
    batch: list[int] = []
    steps: list[Step] = []
    now = 0.0
    while waiting or batch:
        if policy in ("static", "dynamic"):
            if not batch:
                now = _batch_ready(
                    requests, waiting, now, max_batch, None if policy == "static" else max_wait_s
                )
                while waiting and len(batch) < max_batch and requests[waiting[0]].arrival_s <= now:
                    batch.append(waiting.popleft())
        else:
            if not batch:
                now = max(now, requests[waiting[0]].arrival_s)
            while waiting and len(batch) < max_batch and requests[waiting[0]].arrival_s <= now:
                batch.append(waiting.popleft())

        alive = [i for i in batch if len(served[i].token_s) < requests[i].output]
        decoding = [i for i in alive if prompt_left[i] == 0]
        prefilling = [i for i in alive if prompt_left[i]]
        if policy == "prefill_first" and prefilling:
            decoding = []
        budget = token_budget - len(decoding) if policy == "stall_free" else float("inf")
        parts: dict[int, int] = {}
        for i in prefilling:
            take = int(min(prompt_left[i], budget))
            if take:
                parts[i] = take
                budget -= take
        tokens = len(decoding) + sum(parts.values())
        seconds = cost(tokens)
        steps.append(
            Step(
                now,
                seconds,
                sum(parts.values()),
                len(decoding),
                tuple(sorted([*decoding, *parts])),
                len(batch),
            )
        )
        now += seconds
        for i, take in parts.items():
            prompt_left[i] -= take
        for i in [*decoding, *(i for i in parts if prompt_left[i] == 0)]:
            served[i].token_s.append(now)
        left = [i for i in batch if len(served[i].token_s) < requests[i].output]
        if policy in ("static", "dynamic"):
            batch = batch if left else []  # the places stay taken until the last one ends
        else:
            batch = left
    return Schedule(policy, served, steps)


def _batch_ready(requests, waiting, now, max_batch, max_wait_s) -> float:
    """When a waiting batch may start: when full (or all have come), at the latest `max_wait_s` after its first."""
    first = max(now, requests[waiting[0]].arrival_s)
    full = requests[waiting[min(max_batch, len(waiting)) - 1]].arrival_s
    if max_wait_s is None:
        return max(first, full)
    return max(first, min(full, requests[waiting[0]].arrival_s + max_wait_s))


def wave_slots_used(outputs: list[int], batch: int) -> float:
    """Fraction of a static batch's places that still generate: sum of the answers / (batch * longest), by waves.

    This alone gives the ratio of steps between waves and continuous admission when decoding costs the same
    whatever the batch; arrivals, prompts and the last, half-empty wave move it.
    """
    waves = [outputs[i : i + batch] for i in range(0, len(outputs), batch)]
    return sum(outputs) / sum(batch * max(w) for w in waves)
