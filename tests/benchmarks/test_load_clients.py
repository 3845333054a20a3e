"""The clients of a constant load: what a window of time sees of a server with known times."""

import asyncio
import json
import threading

import pytest
from aiohttp import web

from benchmarks.planner import FOLDER, record_load
from benchmarks.planner.clients import Clients, Load
from helpers.server.server import Server

FIRST_S, TOKEN_S = 0.1, 0.02


@pytest.fixture(scope="module")
def server():
    """Answers like vLLM's: a first token after 100 ms, then one in 20 ms, however many ask."""

    async def complete(request):
        body = await request.json()
        assert len(body["prompt"]) == 10 and body["ignore_eos"]
        answer = web.StreamResponse()
        await answer.prepare(request)
        for position in range(body["max_tokens"]):
            await asyncio.sleep(TOKEN_S if position else FIRST_S)
            await answer.write(b"data: {}\n\n")
        await answer.write(b"data: [DONE]\n\n")
        return answer

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    loop, started = asyncio.new_event_loop(), threading.Event()
    runner = web.AppRunner(app)

    async def start():
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        started.set()

    def serve():
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started.wait(5)
    yield Server(f"http://127.0.0.1:{runner.addresses[0][1]}", "", "m")
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def test_a_closed_loop_counts_what_its_window_saw(server):
    clients = 6
    found = Clients(server, Load.read("6x10+10"), 100, seed=0).measure(1.5, limit_s=5)
    # A busy machine makes each of them later, never sooner.
    assert 0.95 * FIRST_S < found["ttft_ms"] / 1e3 < 4 * FIRST_S
    assert 0.95 * TOKEN_S < found["tpot_p50_ms"] / 1e3 < 4 * TOKEN_S
    turn_s = (found["ttft_ms"] + 9 * found["tpot_ms"]) / 1e3
    assert found["output_tokens_per_s"] == pytest.approx(clients * 10 / turn_s, rel=0.25)
    assert found["failed"] == 0 and "others_share" in found


def test_arrivals_come_at_their_rate_and_refusals_are_counted(server):
    found = Clients(server, Load.read("50%x10+5"), 100, seed=0).measure(2.0, 5, rate_per_s=40)
    assert 20 < found["requests_per_s"] < 55
    nowhere = Server(server.url + "/nowhere", "", "m")
    found = Clients(nowhere, Load.read("1x10+5"), 100, seed=0).measure(0.3, 5)
    assert found["failed"] > 0 and "ttft_ms" not in found


def test_the_share_of_arrivals_is_of_the_most_that_was_served():
    found = {"8x10+5": {"requests_per_s": 3.0}, "64x10+5": {"requests_per_s": 8.0}}
    assert record_load.capacity(Load.read("50%x10+5"), found) == 8.0
    assert record_load.capacity(Load.read("50%x20+5"), found) is None


def test_what_no_gpu_has_measured_yet_was_predicted():
    """The predictions of a list were written before it is measured: every load of it has one."""
    for name in ("load1", "load2", "load4"):
        listing = record_load.read_loads(FOLDER / "configs" / f"{name}.json")
        file = FOLDER / "records" / f"{name}_{listing['gpu']}.predictions.json"
        written = json.loads(file.read_text())["predictions"]
        for config in listing["configs"]:
            cases = {record_load.case(load) for load in record_load.loads_of(config)}
            assert cases == set(written[config["id"]])
