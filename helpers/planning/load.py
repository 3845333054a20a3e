"""A plan under load: TPOT, TTFT with its queue, and throughput, from vLLM's own order of work.

A replica's steps are played in vLLM's order (v1/core/sched/scheduler.py): the running streams
first, one token each, then what is left of max_num_batched_tokens for prompts, first come, first
served, the last one cut. So streams slow down when prompts come, and never stop. Either so many
clients send their next request when they have an answer (a closed loop; they are spread over the
length of an answer, as users are), or requests arrive at random at a rate. Many equal steps are
played as one.
"""

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from .drafting import SpeculativeSteps
from .hardware import Box, PlanningError
from .memory import EngineOptions, MemoryPlan, plan_memory
from .models import ModelShape
from .predict import Parts, Steps, Tuning

# How the clients happen to be spread decides who meets whom, for good: some ways, and their mean.
# More of them for few clients, and for a pipeline: of a small model on stages, a prompt in a batch
# that no longer fits a CUDA graph holds up the next: some spreads stay slow and others fast.
FEW_CLIENTS, WAYS, MORE_WAYS = 24, 2, 4
AT_LEAST = 20  # requests that are counted of each
MOST_ARRIVALS = 2000


@dataclass(frozen=True)
class RequestMix:
    """Requests: tokens in, tokens out, and how many come.

    concurrency: clients of the whole box, each with one request at a time. rate: requests a second
    that arrive at random instead. prefix_hit_rate: share of a prompt found in the prefix cache.
    """

    input_tokens: int = 1024
    output_tokens: int = 128
    concurrency: int = 1
    rate: float | None = None
    prefix_hit_rate: float = 0.0


@dataclass(frozen=True)
class SpeedPrediction:
    """Speed of one plan for one workload in the steady state. Seconds and tokens."""

    tp: int
    pp: int
    dp: int
    workload: RequestMix
    decode: Parts  # one step of all streams that run at once, no prompt beside them
    prefill: Parts  # one prompt alone
    tpot: Parts  # of a stream under the load, the prompts of others in its steps included
    streams_per_replica: int
    ttft_s: float  # mean, with the queue; infinite when more requests come than are served
    ttft_percentiles_s: tuple[float, float]  # p50, p99
    tpot_percentiles_s: tuple[float, float]
    prompts_s: float  # of TPOT: what the prompts in the same steps add
    output_tokens_per_s: float
    requests_per_s: float
    memory: MemoryPlan
    notes: tuple = field(default_factory=tuple)

    @property
    def tpot_s(self) -> float:
        """Mean seconds for each output token under the load."""
        return float(self.tpot.total)

    @property
    def prefill_s(self) -> float:
        """Seconds of one prompt alone."""
        return float(self.prefill.total)

    @property
    def gpus(self) -> int:
        """GPUs of all replicas together."""
        return self.tp * self.pp * self.dp


# ---------------------------------------------------------------------- one replica's steps
@dataclass
class Trace:
    """What a played replica did. Times in seconds; the warm-up is left out.

    streams: most that ran at once. found: tokens of a prompt that the prefix cache held.
    """

    found: int = 0

    steps: list = field(default_factory=list)  # (count, streams, context, tokens, keys, rows)
    ttft_s: list = field(default_factory=list)
    tpot_s: list = field(default_factory=list)
    answers: int = 0
    duration_s: float = 0.0

    @property
    def per_second(self) -> float:
        """Requests answered in a second."""
        return self.answers / self.duration_s

    @property
    def streams(self) -> int:
        """The most streams of a replica that decoded in a step, with the prompts beside them."""
        return math.ceil(max(row[1] + row[5] for row in self.steps))

    def tpot_parts(self, steps: Steps) -> tuple[Parts, float]:
        """(TPOT by cause, seconds of it that prompts in the same steps add)."""
        rows = np.array([row for row in self.steps if row[1] > 0], float).reshape(-1, 6)
        if not len(rows):
            return Parts(), 0.0
        count, streams, context, tokens, keys, ending = rows.T
        weight = count * streams / (count * streams).sum()
        mixed = steps.parts(streams, context, tokens, keys, streams + ending)
        alone = steps.parts(streams, context, rows=streams)
        mean = mixed.each(lambda part: float((part * weight).sum()))
        added = float(((mixed.total - alone.total) * weight).sum())
        if not self.tpot_s:
            return mean, added
        factor = float(np.mean(self.tpot_s)) / mean.total
        return mean.scaled(factor), added * factor


class Replica:
    """One replica at work: the state between two steps.

    at_once: streams and prompts that may run together; the others wait. together: replicas of a
    mixture of experts that step together are played as one, their work spread evenly.
    """

    def __init__(self, steps: Steps, mix: RequestMix, at_once: int, together: int = 1):
        self.steps, self.mix, self.at_once = steps, mix, at_once * together
        self.together = together
        steps.tabulate(mix.input_tokens + mix.output_tokens)
        tuning = steps.tuning
        self.front_s = tuning.frontend_s + tuning.frontend_token_s * mix.input_tokens
        self.found = min(int(mix.prefix_hit_rate * mix.input_tokens), mix.input_tokens - 1)
        self.budget = steps.options.max_num_batched_tokens * steps.pp * together
        self.gain = steps.tokens_per_step
        self.answer_steps = math.ceil((mix.output_tokens - 1) / self.gain)
        self.whole = mix.input_tokens + 1 + self.answer_steps * self.gain  # tokens at its end
        self.overlaps = steps.box.gpu.family != "cpu"  # async scheduling: a step is planned ahead
        self.trace = Trace(self.found)
        self.reset()

    def reset(self) -> None:
        """Nobody there yet; the trace stays."""
        self.now = self.before = 0.0  # when the next step begins, when the last one began
        self.step = 0
        self.ends: list = []  # heap of (step after which the answer is whole, sent, first token)
        self.keys = 0  # tokens of KV cache of all running streams
        self.prompt: list | None = None  # [sent, tokens that are computed] of the one that was cut
        self.arrivals: list = []  # heap of (reaches the scheduler, sent)
        self.waiting: deque = deque()

    def send(self, sent: float) -> None:
        """A client sends a request."""
        heapq.heappush(self.arrivals, (sent + self.front_s, sent))

    def advance(self) -> list[tuple[float, float]]:
        """Play a step, or many equal ones; (sent, first token) of the answers that are whole."""
        if not self.ends and not self.waiting and self.prompt is None:
            self.now = self.before = max(self.now, self.arrivals[0][0])
        seen = self.before if self.overlaps else self.now
        while self.arrivals and self.arrivals[0][0] <= seen:
            self.waiting.append(heapq.heappop(self.arrivals)[1])
        streams = len(self.ends)
        tokens, keys, begun = self._prompts(streams)
        count = 1 if tokens or not streams else self._equal_steps(streams)
        grown = self.gain * (count - 1) / 2
        context = self.keys / streams + grown if streams else 0.0
        each = [n / self.together for n in (streams, tokens, len(begun))]
        seconds = self.steps.seconds(each[0], context, each[1], keys, each[0] + each[2])
        self.trace.steps.append((count, each[0], context, each[1], keys, each[2]))
        self.before = self.now + (count - 1) * seconds
        self.now += count * seconds
        self.step += count
        self.keys += count * streams * self.gain
        whole = []
        while self.ends and self.ends[0][0] <= self.step:
            _, sent, first = heapq.heappop(self.ends)
            self.keys -= self.whole
            whole.append((sent, first))
        if self.mix.output_tokens == 1:  # an answer of one token is whole with its prompt
            return whole + [(sent, self.now) for sent in begun]
        for sent in begun:
            heapq.heappush(self.ends, (self.step + self.answer_steps, sent, self.now))
            self.keys += self.mix.input_tokens + 1
        return whole

    def _prompts(self, streams: int) -> tuple[int, float, list[float]]:
        """(prompt tokens of this step, mean keys of each, when those that end here were sent)."""
        left, running = self.budget - streams * self.steps.query_len, streams
        tokens, pairs, begun = 0, 0.0, []
        length = self.mix.input_tokens
        while left > 0:
            if self.prompt is None:
                if not self.waiting or running >= self.at_once:
                    break
                self.prompt = [self.waiting.popleft(), self.found]
            done = self.prompt[1]
            now = min(left, length - done)
            tokens, left, running = tokens + now, left - now, running + 1
            pairs += now * (done + now / 2)
            self.prompt[1] += now
            if self.prompt[1] == length:
                begun.append(self.prompt[0])
                self.prompt = None
        return tokens, pairs / tokens if tokens else 0.0, begun

    def _equal_steps(self, streams: int) -> int:
        """Steps until an answer is whole or a request arrives."""
        count = self.ends[0][0] - self.step
        if self.arrivals and streams < self.at_once:
            each = streams / self.together
            one = self.steps.seconds(each, self.keys / streams, 0, 0, each)
            until = math.ceil((self.arrivals[0][0] - self.now) / one) + self.overlaps
            count = min(count, max(1, until))
        return count


def play_clients(
    steps: Steps, mix: RequestMix, clients: int, at_once: int, together: int = 1
) -> Trace:
    """A closed loop: each client sends its next request when its answer is whole.

    Of many that wait, some are played: each of the others makes all wait for one answer more.
    """
    replica, draw = Replica(steps, mix, at_once, together), random.Random(0)
    others = max(0, clients - replica.at_once - FEW_CLIENTS)
    clients -= others
    running = min(clients, replica.at_once) if mix.output_tokens > 1 else 0
    for _ in range(MORE_WAYS if clients <= FEW_CLIENTS or steps.pp > 1 else WAYS):
        replica.reset()
        for _ in range(running):  # in the middle of their answers
            left = 1 + int(draw.random() * replica.answer_steps)
            heapq.heappush(replica.ends, (left, -math.inf, 0.0))
            replica.keys += replica.whole - left * replica.gain
        for _ in range(clients - running):
            replica.send(0.0)
        counted = clients * math.ceil(AT_LEAST / clients)  # whole turns: everyone as often
        _play(replica, clients, counted, lambda: replica.send(replica.now))
    trace = replica.trace
    trace.ttft_s = [seconds + others / trace.per_second for seconds in trace.ttft_s]
    return trace


def play_arrivals(
    steps: Steps, mix: RequestMix, rate: float, at_once: int, together: int = 1
) -> Trace:
    """Requests that arrive at random, ``rate`` a second.

    Those that are counted, and those before, take exactly as long as the rate says: 500 by chance
    take 4 % more or less, and near what a replica serves that alone moves TPOT by 15 %.
    """
    replica, draw = Replica(steps, mix, at_once, together), random.Random(0)
    alone_s = mix.output_tokens * steps.parts(1, mix.input_tokens).total
    inside = int(4 * rate * float(alone_s))  # requests inside at once: about twice Little's law
    warm = min(50 + inside, MOST_ARRIVALS // 3)
    counted = min(500 + 2 * inside, 2 * MOST_ARRIVALS // 3)
    at = 0.0
    for requests in (warm, counted, inside + 50):
        gaps = [draw.expovariate(1.0) for _ in range(requests)]
        scale = requests / (rate * sum(gaps))
        for gap in gaps:
            at += gap * scale
            replica.send(at)
    return _play(replica, warm, counted, lambda: None)


def play_burst(steps: Steps, mix: RequestMix, requests: int, at_once: int) -> Trace:
    """Requests that are all there at once, until the last answer is whole."""
    replica = Replica(steps, mix, at_once)
    for _ in range(requests):
        replica.send(0.0)
    return _play(replica, 0, requests, lambda: None)


def _play(replica: Replica, warm: int, counted: int, again) -> Trace:
    """Answers until ``warm`` of them are whole are not counted, then ``counted`` are."""
    trace, answers, begin = replica.trace, 0, 0.0
    kept, output = len(trace.steps), replica.mix.output_tokens
    while answers < warm + counted:
        for sent, first in replica.advance():
            answers += 1
            again()
            if answers == warm:
                del trace.steps[kept:]
                begin = replica.now
            if answers <= warm or sent == -math.inf:
                continue
            trace.ttft_s.append(first - sent)
            if output > 1:
                trace.tpot_s.append((replica.now - first) / (output - 1))
    trace.answers += answers - warm
    trace.duration_s += replica.now - begin
    return trace


# ---------------------------------------------------------------------- a plan's speed
def check_counts(of, names) -> None:
    """Raise PlanningError unless the named fields are whole numbers of at least 1."""
    for name in names:
        value = getattr(of, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanningError(f"{name} must be a whole number of at least 1, not {value!r}.")


def predict_speed(
    shape: ModelShape,
    box: Box,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    workload: RequestMix | None = None,
    options: EngineOptions | None = None,
    tuning: Tuning | None = None,
    memory: MemoryPlan | None = None,
) -> SpeedPrediction:
    """Predict TPOT, TTFT and throughput of one plan. The memory must fit (plan_memory).

    Raises PlanningError for sizes that vLLM refuses and for requests longer than max_model_len.
    """
    mix = workload or RequestMix()
    check_mix(mix)
    memory = memory or plan_memory(shape, box, tp, pp, dp, options)
    _check_length(mix, memory.options, shape)
    kind = SpeculativeSteps if memory.options.speculative else Steps
    steps = kind(shape, box, tp, pp, dp, memory.options, tuning)
    at_once = memory.at_once(mix.input_tokens + mix.output_tokens)
    notes = _about_waiting(mix, dp, memory, at_once)
    at_once = min(at_once, memory.options.max_num_batched_tokens // steps.query_len)
    trace, per_second, too_many = _under_load(steps, mix, dp, at_once)
    ttft_s = [math.inf] if too_many else trace.ttft_s
    wanted = trace.streams if mix.rate else math.ceil(mix.concurrency / dp)
    streams = at_once if too_many else min(wanted, at_once)
    tpot, prompts_s = trace.tpot_parts(steps)
    return SpeedPrediction(
        tp=tp,
        pp=pp,
        dp=dp,
        workload=mix,
        decode=steps.parts(streams, mix.input_tokens + mix.output_tokens / 2),
        prefill=steps.prompt(mix.input_tokens, trace.found),
        tpot=tpot,
        streams_per_replica=streams,
        ttft_s=float(np.mean(ttft_s)),
        ttft_percentiles_s=_percentiles(ttft_s),
        tpot_percentiles_s=_percentiles(trace.tpot_s),
        prompts_s=prompts_s,
        output_tokens_per_s=per_second * mix.output_tokens,
        requests_per_s=per_second,
        memory=memory,
        notes=(*memory.notes, *notes, *too_many),
    )


def _under_load(steps: Steps, mix: RequestMix, dp: int, at_once: int):
    """(trace of one replica, requests/s of all, a list: that more arrive than are served)."""
    together = dp if steps.shape.experts else 1
    alone = dp // together  # replicas, or groups of them, that do not wait for each other
    if mix.rate is None:
        clients, more = divmod(mix.concurrency, alone)  # ``more`` of them have one client more
        shares = {clients + 1: more, clients: alone - more}
        traces = {
            n: play_clients(steps, mix, n, at_once, together) for n, of in shares.items() if n * of
        }
        per_second = sum(trace.per_second * shares[n] for n, trace in traces.items())
        return traces[max(traces)], per_second, []
    if mix.rate > alone * _most(steps, mix, at_once, together) / 2:
        full = play_clients(steps, mix, at_once * together, at_once, together)
        served = full.per_second * alone
        if mix.rate >= served:
            says = (
                f"{mix.rate:g} requests/s are more than the {served:.2f} that this plan serves: "
                "the queue grows without end"
            )
            return full, served, [says]
    return play_arrivals(steps, mix, mix.rate / alone, at_once, together), mix.rate, []


def _most(steps: Steps, mix: RequestMix, at_once: int, together: int) -> float:
    """Requests/s that a replica serves with all its streams, roughly: every step the same."""
    replica = Replica(steps, mix, at_once, together)
    ending = at_once / max(1, replica.answer_steps)
    tokens, keys = ending * (mix.input_tokens - replica.found), mix.input_tokens / 2
    context = mix.input_tokens + mix.output_tokens / 2
    step_s = steps.parts(at_once, context, tokens, keys, at_once + ending).total
    return together * ending / float(step_s)


def _percentiles(values: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    if not values:
        return 0.0, 0.0
    if math.isinf(values[0]):
        return math.inf, math.inf
    p50, p99 = np.percentile(values, (50, 99))
    return float(p50), float(p99)


def check_mix(mix: RequestMix) -> None:
    """Raise PlanningError for requests that cannot come."""
    check_counts(mix, ("input_tokens", "output_tokens", "concurrency"))
    if mix.rate is not None and not 0 < mix.rate < math.inf:
        raise PlanningError(f"rate must be a number of requests a second above 0, not {mix.rate}.")
    if not 0 <= mix.prefix_hit_rate <= 1:
        raise PlanningError(
            "prefix_hit_rate is the share of a prompt that the prefix cache holds, from 0 to 1, "
            f"not {mix.prefix_hit_rate}."
        )


def _check_length(mix: RequestMix, options: EngineOptions, shape: ModelShape) -> None:
    length = mix.input_tokens + mix.output_tokens
    if length <= options.max_model_len:
        return
    more = f" or --max-model-len {length}." if length <= shape.max_positions else "."
    raise PlanningError(
        f"A request of {mix.input_tokens} + {mix.output_tokens} tokens is longer than "
        f"max_model_len {options.max_model_len}: give shorter requests{more}"
    )


def _about_waiting(mix: RequestMix, dp: int, memory: MemoryPlan, at_once: int) -> list[str]:
    """What is to be said where not all clients' requests run at once."""
    wanted, most = math.ceil(mix.concurrency / dp), memory.options.max_num_seqs
    if mix.rate is not None or at_once >= wanted:
        return []
    limit = "KV cache" if at_once < most else "max_num_seqs"
    return [
        f"{wanted} requests on a replica are more than {at_once} at once: the others wait in the "
        f"queue ({limit} is the limit)"
    ]
