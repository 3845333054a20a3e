"""Clients of a server: so many at once, or arrivals at random, seen through a window of time.

The clients are spread before the window opens, and answers have between half and one and a half
times their mean length, as users' have: of equal ones those that met once would stay together for
good. Nothing that happens outside of the window counts: what is measured is the steady state, which
is what the planner predicts.
"""

import asyncio
import random
import re
import statistics
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from helpers.server.server import Server
from helpers.verdicts.machine import MachineWatch

PATTERN = re.compile(r"(\d+)(%?)x(\d+)\+(\d+)")


@dataclass(frozen=True)
class Load:
    """Requests of so many tokens in and, on average, out.

    clients: so many at once; None: they arrive at random. share: of the requests per second that
    the server was measured to serve at most.
    """

    input_tokens: int
    output_tokens: int
    clients: int | None = None
    share: float | None = None

    @classmethod
    def read(cls, text: str) -> "Load":
        """'64x1024+128': 64 clients, 1,024 tokens in, 128 out; '50%x1024+128': half of capacity."""
        found = PATTERN.fullmatch(text)
        if not found:
            raise SystemExit(f"{text!r} is no load: write 64x1024+128 or 50%x1024+128.")
        many, percent, tokens, output = found.groups()
        if percent:
            return cls(int(tokens), int(output), share=int(many) / 100)
        return cls(int(tokens), int(output), clients=int(many))


@dataclass
class _Request:
    """Times of one request, by time.perf_counter()."""

    sent: float
    output: int
    tokens: list[float] = field(default_factory=list)  # when each piece of the answer arrived
    whole: bool = False


class Clients:
    """The clients of one server and one load."""

    def __init__(self, server: Server, load: Load, vocabulary: int, seed: int):
        self.server, self.load, self.vocabulary = server, load, vocabulary
        self.draw = random.Random(seed)
        self.requests: list[_Request] = []
        self.failed = 0

    def measure(self, window_s: float, limit_s: float, rate_per_s: float | None = None) -> dict:
        """What a window of so many seconds saw; rate_per_s: of arrivals at random.

        limit_s: of the wait until the clients are spread. Times in ms; "failed": requests that
        ended without an answer.
        """
        return asyncio.run(self._measure(window_s, limit_s, rate_per_s))

    async def _measure(self, window_s: float, limit_s: float, rate_per_s: float | None) -> dict:
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            headers=self.server.headers, timeout=timeout, connector=connector
        ) as session:
            if rate_per_s:
                tasks = [asyncio.create_task(self._arrivals(session, rate_per_s))]
                settled = asyncio.sleep(window_s / 2)
            else:
                spread = asyncio.Barrier(self.load.clients + 1)
                clients = range(self.load.clients)
                tasks = [asyncio.create_task(self._client(session, spread)) for _ in clients]
                settled = spread.wait()
            try:
                await asyncio.wait_for(settled, limit_s)
                watch, begin = MachineWatch(), time.perf_counter()
                await asyncio.sleep(window_s)
                end, disturbance = time.perf_counter(), watch.stop()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return self._seen(begin, end) | disturbance.record()

    async def _client(self, session, spread: asyncio.Barrier) -> None:
        """One request after the other; a first short one spreads the clients."""
        await self._ask(session, self.draw.randint(1, self.load.output_tokens))
        waiting = asyncio.create_task(spread.wait())
        try:
            while True:
                await self._ask(session, self._length())
        finally:
            waiting.cancel()

    async def _arrivals(self, session, rate_per_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            due = time.perf_counter()
            while True:
                due += self.draw.expovariate(rate_per_s)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._ask(session, self._length()))

    def _length(self) -> int:
        mean = self.load.output_tokens
        return self.draw.randint(mean - mean // 2, mean + mean // 2)

    async def _ask(self, session, output: int) -> None:
        prompt = [self.draw.randrange(3, self.vocabulary) for _ in range(self.load.input_tokens)]
        body = {
            "model": self.server.model,
            "prompt": prompt,
            "max_tokens": output,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        request = _Request(time.perf_counter(), output)
        self.requests.append(request)
        try:
            async with session.post(f"{self.server.url}/v1/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        request.tokens.append(time.perf_counter())
            request.whole = True
        except aiohttp.ClientError:
            self.failed += 1
            await asyncio.sleep(0.1)  # a server that refuses everything is asked no faster

    def _seen(self, begin: float, end: float) -> dict:
        """The numbers of the window. A piece of an answer may hold several tokens."""
        whole = [r for r in self.requests if r.whole]
        a_piece = sum(r.output for r in whole) / max(1, sum(len(r.tokens) for r in whole))
        pieces = sum(begin <= at < end for r in self.requests for at in r.tokens)
        tokens_per_s = pieces * a_piece / (end - begin)
        began = [r for r in self.requests if r.tokens and begin <= r.tokens[0] < end]
        ended = [r for r in whole if begin <= r.tokens[-1] < end and r.output > 1]
        return {
            "window_s": round(end - begin, 2),
            "output_tokens_per_s": tokens_per_s,
            "requests_per_s": tokens_per_s / self.load.output_tokens,
            **_spread("ttft", [r.tokens[0] - r.sent for r in began]),
            **_spread("tpot", [(r.tokens[-1] - r.tokens[0]) / (r.output - 1) for r in ended]),
            "failed": self.failed,
        }


def _spread(name: str, seconds: list[float]) -> dict:
    if not seconds:
        return {}
    p50, p99 = 1e3 * np.percentile(seconds, (50, 99))
    mean = 1e3 * statistics.fmean(seconds)
    return {f"{name}_ms": mean, f"{name}_p50_ms": p50, f"{name}_p99_ms": p99}
