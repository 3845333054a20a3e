"""Sentences of notebook 5 that depend on what was measured: captions and reasons."""

from __future__ import annotations

import os
import signal
import statistics

from helpers.server.load import Stream
from helpers.server.server import StopReport

# --- captions -------------------------------------------------------------------------------------


def startup(phases_s: dict[str, float], total_s: float) -> str:
    """Which phase of a start took longest."""
    longest = max(phases_s, key=phases_s.get)
    return f"Of {total_s:.1f} s, {phases_s[longest]:.1f} s were spent on: {longest}."


def token_times(stream: Stream) -> str:
    """When the first chunk of a stream came, and how close the others were."""
    said = f"{1e3 * stream.ttft_s:.0f} ms until the first chunk (TTFT)"
    if not stream.gaps_s:
        return f"{said}."
    middle_ms = 1e3 * statistics.median_high(stream.gaps_s)
    return (
        f"{said}, then {len(stream.gaps_s)} chunks, half of them within {middle_ms:.1f} ms "
        "of the one before."
    )


def logprobs(rows: list[dict]) -> str:
    """How sure the model was of its tokens. rows: candidates (token, probability), chosen first."""
    sure = statistics.fmean(row["candidates"][0][1] for row in rows)
    return f"On average the model gave {100 * sure:.0f} % to the token that it chose."


def closed_loop(rows: list[dict], knee: dict) -> str:
    """Where throughput is highest, what that costs the first token, and where the knee is."""
    first, last = rows[0], rows[-1]
    most = max(rows, key=lambda row: row["output_tokens_per_s"])
    gain = most["output_tokens_per_s"] / first["output_tokens_per_s"]
    wait = most["ttft_ms_p50"] / first["ttft_ms_p50"]
    lost = 1 - last["output_tokens_per_s"] / most["output_tokens_per_s"]
    said = (
        f"Throughput is highest at {most['clients']} clients: {gain:.1f} times that of "
        f"{first['clients']}, and the first token comes after {wait:.1f} times as long."
    )
    if lost > 0.1:
        said += f" Beyond that throughput falls, by {100 * lost:.0f} % at {last['clients']}."
    return (
        f"{said} The knee, where throughput / latency is highest, is at {knee['clients']} clients."
    )


def open_loop(rows: list[dict], goals_ms: dict, best: dict | None, share: float) -> str:
    """The goal, the highest rate at which it holds, and how many meet it at the last rate."""
    goal = " and ".join(f"{name.upper()} {ms:g} ms" for name, ms in goals_ms.items())
    found = f"no rate tried let {100 * share:.0f} % of the requests meet it"
    if best:
        found = (
            f"{best['offered_per_s']:.4g} arrivals a second are the most of these rates at which "
            f"at least {100 * share:.0f} % of the requests meet it: {100 * best['good_share']:.0f} "
            "% do"
        )
    last = rows[-1]
    return (
        f"The goal is {goal}; {found}. At {last['offered_per_s']:.4g} a second "
        f"{100 * last['good_share']:.0f} % meet it."
    )


def cpu_shares(used_s: dict[str, float], duration_s: float) -> str:
    """Which process used most of the CPU time of a run."""
    total, most = sum(used_s.values()), max(used_s, key=used_s.get)
    return (
        f"{total:.2f} CPU seconds in {duration_s:.2f} s; most of them, "
        f"{100 * used_s[most] / total:.0f} %, by: {most}."
    )


# --- reasons --------------------------------------------------------------------------------------


def why_server_differs(share: float, used_s: dict[str, float], duration_s: float) -> str:
    """A few sentences on server / offline throughput (`share`), by how it came out.

    used_s: CPU seconds of each process (`experiments.cpu_seconds`); duration_s: of the run.
    """
    engine = 100 * used_s["engine"] / sum(used_s.values())
    cores = len(os.sched_getaffinity(0))
    if 0.9 <= share <= 1.1:
        why = "It ran beside the engine, in other processes, and so cost next to nothing."
    elif share > 1.1:
        why = (
            "A server that is faster has turned tokens into text in another process, beside the "
            "next step; in the notebook one process does both in turn. Other programs on the "
            "machine can do the same to a short run: repeat both."
        )
    elif used_s["API server"] > 0.9 * duration_s:
        why = (
            f"The API server alone used {used_s['API server']:.1f} CPU seconds in "
            f"{duration_s:.1f} s: one process, and it filled its core, so the engine waited for "
            "it. `--api-server-count` starts more of them."
        )
    elif cores < len(used_s):
        why = (
            f"{len(used_s)} processes shared {cores} {'core' if cores == 1 else 'cores'}, so the "
            "engine's steps started later; the larger the model, the less that is."
        )
    else:
        why = (
            "No process was short of a core: the requests waited on the way between them. Repeat "
            "both, a short run varies."
        )
    return (
        f"The engine used {engine:.0f} % of the CPU time of this run; the rest went into HTTP, "
        f"JSON and events on both sides. {why}"
    )


def trades(default: dict[str, float], changed: dict[str, float]) -> str:
    """What each changed option gave and cost, a line each. Up to 20 % counts as no difference.

    default, changed: of `experiments.options`.
    """

    def differ(key: str) -> str:
        a, b = default[key], changed[key]
        if max(a, b) <= 1.2 * min(a, b):
            return f"no difference above 20 % ({a:.1f} and {b:.1f} ms)"
        return f"{'longer' if b > a else 'shorter'}: {b:.1f} ms instead of {a:.1f}"

    cached, again = (
        f"{100 * one['ttft_again_x']:.0f} % of the first time" for one in (default, changed)
    )
    return (
        f"Fewer sequences at a time: TTFT {differ('ttft_ms_p50')}; TPOT {differ('tpot_ms_p50')}.\n"
        f"Smaller batches of tokens: the longest gap of running streams {differ('gap_ms')}; "
        f"the long prompt's TTFT {differ('long_ttft_ms')}.\n"
        f"No prefix caching: a prompt's TTFT the second time is {again}; with caching it was "
        f"{cached}.\n"
        f"A shorter context: {changed['fit_together']:.0f} requests of full length fit instead of "
        f"{default['fit_together']:.0f}; the long prompt gets status "
        f"{changed['too_long_status']:.0f} instead of {default['too_long_status']:.0f}."
    )


def how_it_stopped(report: StopReport) -> str:
    """What vLLM and this notebook did when a server without a shutdown timeout was stopped."""
    if report.how == "aborted" and report.exit_code == 128 + signal.SIGKILL:
        return (
            "vLLM ended its engine at once: that is its default, --shutdown-timeout 0. Its API "
            "server then waited for its clients to hang up, so the notebook killed it after "
            f"{report.seconds:.0f} s (exit code 137 = 128 + 9, SIGKILL)."
        )
    if report.how == "aborted":
        return (
            "vLLM gave up what was running, that is its default (--shutdown-timeout 0), and ended "
            f"by itself with exit code {report.exit_code}."
        )
    return (
        "The server had no requests left to give up: it stopped "
        f"{report.seconds:.1f} s after it was told to, exit code {report.exit_code}."
    )
