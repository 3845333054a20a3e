"""Figures of notebook 5. Each function draws what it is given and shows it; nothing is measured here."""

from __future__ import annotations

from helpers.display import figures


def startup(phases_s: dict[str, float], total_s: float) -> None:
    """Where the seconds of a server's start go: one bar a phase, in order."""
    shown = {
        name: seconds for name, seconds in phases_s.items() if seconds >= 0.005 * total_s
    } or phases_s
    longest = max(shown, key=shown.get)
    fig, ax = figures.figure(
        "Where the start of a server goes", size=(7.5, 0.9 + 0.32 * len(shown))
    )
    left = 0.0
    for row, (name, seconds) in enumerate(phases_s.items()):
        if name in shown:
            y = list(shown).index(name)
            ax.barh(
                y,
                seconds,
                left=left,
                height=0.62,
                color=figures.COLORS["orange" if name == longest else "blue"],
            )
            ax.text(left + seconds + 0.01 * total_s, y, f"{seconds:.1f} s", va="center", fontsize=9)
        left += seconds
    ax.set_yticks(range(len(shown)), list(shown))
    ax.invert_yaxis()
    ax.set(xlabel="seconds since the command", ylabel="phase", xlim=(0, total_s * 1.1))
    ax.grid(axis="y", visible=False)
    figures.show(
        fig, f"Of {total_s:.1f} s, {shown[longest]:.1f} s were spent on: {longest}.",
        [{"phase": name, "seconds": seconds} for name, seconds in phases_s.items()], "server_start",
    )  # fmt: skip


def token_times(stream) -> None:
    """One streamed answer: when each chunk came, and the gaps between them."""
    if not stream.times_s:
        print(f"No chunk came: {stream.error or 'the answer was empty'}.")
        return
    times = [1e3 * t for t in stream.times_s]
    gaps = [1e3 * g for g in stream.gaps_s]
    fig, (ax, low) = figures.figure(
        "A streamed answer, chunk by chunk",
        rows=2,
        size=(7.5, 4.2),
        sharex=True,
        height_ratios=[2, 1],
    )
    ax.step([0, *times], [0, *range(1, len(times) + 1)], where="post", color=figures.COLORS["blue"])
    ax.axvspan(0, times[0], color=figures.COLORS["yellow"], alpha=0.35, lw=0)
    # At the top left: the line begins at the bottom there and climbs to the right.
    ax.annotate(f"TTFT {times[0]:.0f} ms", (times[0], 0.88), xycoords=ax.get_xaxis_transform(), xytext=(6, 0),
                textcoords="offset points", fontsize=9)  # fmt: skip
    ax.set(ylabel="chunks received", ylim=(0, None), xlim=(0, times[-1] * 1.03))
    ax.yaxis.get_major_locator().set_params(integer=True)
    low.bar(times[1:], gaps, width=times[-1] / len(times) * 0.6, color=figures.COLORS["sky"])
    low.set(xlabel="ms since the request was sent", ylabel="gap (ms)", ylim=(0, None))
    rest = (
        f"then {len(gaps)} chunks, half of them within {sorted(gaps)[len(gaps) // 2]:.1f} ms of the one before."
        if gaps
        else ""
    )
    figures.show(
        fig, f"{times[0]:.0f} ms until the first chunk (TTFT), {rest}",
        [{"chunk": i + 1, "ms": t, "text": text} for i, (t, text) in enumerate(zip(times, stream.chunks))], "streamed_tokens",
    )  # fmt: skip


def closed_loop(rows: list[dict], knee: dict, recorded: tuple[list[dict], str] = ((), "")) -> None:
    """Throughput and latency over the number of clients. rows: clients, output_tokens_per_s, ttft_ms_p50/_p90, tpot_ms_p50.

    recorded: the same of another machine and its label, as helpers.results.recorded.curve gives them.
    """
    there, where = recorded
    clients = [r["clients"] for r in rows]
    fig, (left, right) = figures.figure(
        "Tokens a second and latency, by the number of clients", cols=2, size=(9, 3.8)
    )
    left.plot(
        clients,
        [r["output_tokens_per_s"] for r in rows],
        marker=figures.MARKERS[0],
        label="measured",
    )
    first = rows[0]
    ideal = [first["output_tokens_per_s"] * c / first["clients"] for c in clients]
    top = max(r["output_tokens_per_s"] for r in rows)
    left.plot(clients, ideal, color=figures.GREY, linestyle=":", label="if batching were free")
    left.axvline(
        knee["clients"], color=figures.COLORS["vermillion"], lw=1.2, linestyle="-.", label="knee"
    )
    if there:
        counts = [int(r["variant"].split("_")[0]) for r in there]
        left.plot(
            counts,
            [r["output_tokens_per_s"] for r in there],
            marker="o",
            label=where,
            **figures.recorded(),
        )
        top = max(top, *(r["output_tokens_per_s"] for r in there))
    left.set(
        xscale="log", xlabel="clients at a time", ylabel="output tokens/s", ylim=(0, 1.35 * top)
    )
    left.legend(fontsize=7)
    for name, label, i in (
        ("ttft_ms_p50", "TTFT p50", 1),
        ("ttft_ms_p90", "TTFT p90", 3),
        ("tpot_ms_p50", "TPOT p50", 2),
    ):
        right.plot(
            clients,
            [r[name] for r in rows],
            marker=figures.MARKERS[i],
            color=figures.COLORS[i],
            label=label,
        )
    if there:
        right.plot(
            counts,
            [r["ttft_ms_p50"] for r in there],
            marker="o",
            label="TTFT p50, recorded",
            **figures.recorded(),
        )
        clients = sorted({*clients, *counts})
    right.axvline(knee["clients"], color=figures.COLORS["vermillion"], lw=1.2, linestyle="-.")
    right.set(xscale="log", yscale="log", xlabel="clients at a time", ylabel="ms (log scale)")
    right.legend()
    for ax in (left, right):
        ax.set_xticks(clients, [str(c) for c in clients])
        ax.minorticks_off()
    most, last = max(rows, key=lambda r: r["output_tokens_per_s"]), rows[-1]
    lost = 1 - last["output_tokens_per_s"] / most["output_tokens_per_s"]
    beyond = (
        f" Beyond that throughput falls, by {100 * lost:.0f} % at {last['clients']}."
        if lost > 0.1
        else ""
    )
    figures.show(
        fig, f"Throughput is highest at {most['clients']} clients: {most['output_tokens_per_s'] / first['output_tokens_per_s']:.1f} times that of "
        f"{first['clients']}, and the first token comes after {most['ttft_ms_p50'] / first['ttft_ms_p50']:.1f} times as long.{beyond} "
        f"The knee, where throughput / latency is highest, is at {knee['clients']}.",
        rows, "closed_loop",
    )  # fmt: skip


def open_loop(
    rows: list[dict], goals_ms: dict[str, float], best: dict | None, share: float
) -> None:
    """Latency and goodput over the rate of arrivals. rows: offered_per_s, answered_per_s, good_share, ttft_ms_p50/_p90, e2e_ms_p50/_p90.

    best: of helpers.server.load.best_rate, the highest rate at which `share` of the requests meet the goal; None when none does.
    """
    offered = [r["offered_per_s"] for r in rows]
    fig, (left, right) = figures.figure(
        "What arrives, what is answered, and what is answered in time", cols=2, size=(9, 3.8)
    )
    for name, label, i in (
        ("e2e_ms_p50", "E2E p50", 0),
        ("e2e_ms_p90", "E2E p90", 5),
        ("ttft_ms_p50", "TTFT p50", 1),
        ("ttft_ms_p90", "TTFT p90", 3),
    ):
        left.plot(
            offered,
            [r[name] for r in rows],
            marker=figures.MARKERS[i],
            color=figures.COLORS[i],
            label=label,
        )
    lowest, highest = min(r["ttft_ms_p50"] for r in rows), max(r["e2e_ms_p90"] for r in rows)
    if "ttft" in goals_ms:
        left.axhline(goals_ms["ttft"], color=figures.INK, lw=1.2, linestyle="--", label="TTFT goal")
    left.set(
        yscale="log",
        xlabel="requests arriving a second",
        ylabel="ms (log scale)",
        xlim=(0, None),
        ylim=(0.7 * lowest, 6 * highest),
    )
    left.legend(ncols=2, loc="upper left")
    right.plot(offered, offered, color=figures.GREY, linestyle=":", label="what arrives")
    right.plot(
        offered,
        [r["answered_per_s"] for r in rows],
        marker=figures.MARKERS[0],
        label="what is answered",
    )
    in_time = [r["answered_per_s"] * r["good_share"] for r in rows]
    right.plot(
        offered,
        in_time,
        marker=figures.MARKERS[2],
        color=figures.COLORS["green"],
        label="answered within the goal",
    )
    if best:
        right.axvline(
            best["offered_per_s"],
            ymax=0.68,
            color=figures.COLORS["vermillion"],
            lw=1.2,
            linestyle="-.",
            label=f"goal met by {100 * share:.0f} %",
        )
    right.set(
        xlabel="requests arriving a second",
        ylabel="requests a second",
        xlim=(0, None),
        ylim=(0, 1.45 * max(offered)),
    )
    right.legend(loc="upper left", fontsize=8)
    goal = " and ".join(f"{name.upper()} {ms:g} ms" for name, ms in goals_ms.items())
    said = (
        f"{best['offered_per_s']:.4g} arrivals a second are the most of these rates at which at least {100 * share:.0f} % of the requests meet "
        f"it: {100 * best['good_share']:.0f} % do"
        if best
        else f"no rate tried let {100 * share:.0f} % of the requests meet it"
    )
    last = rows[-1]
    figures.show(
        fig, f"The goal is {goal}; {said}. At {last['offered_per_s']:.4g} a second {100 * last['good_share']:.0f} % meet it.",
        [{**r, "in_time_per_s": good} for r, good in zip(rows, in_time, strict=True)], "open_loop",
    )  # fmt: skip


def cpu_shares(seconds: dict[str, float], duration_s: float) -> None:
    """CPU time of each process during one run, against the time the run took."""
    names, values = list(seconds), list(seconds.values())
    fig, ax = figures.figure(
        "Who used the CPU while the server worked", size=(7, 1.1 + 0.4 * len(names))
    )
    ax.barh(names, values, height=0.6, color=[figures.COLORS[i] for i in range(len(names))])
    ax.axvline(duration_s, color=figures.INK, lw=1.2, linestyle="--")
    ax.text(duration_s, 0.5, f" the run\n took {duration_s:.2f} s", fontsize=9, va="center")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="CPU seconds", ylabel="process", xlim=(0, 1.25 * max(duration_s, *values)))
    total = sum(values)
    most = max(seconds, key=seconds.get)
    figures.show(
        fig, f"{total:.2f} CPU seconds in {duration_s:.2f} s; most of them, {100 * seconds[most] / total:.0f} %, by: {most}.",
        [{"process": n, "CPU seconds": v} for n, v in seconds.items()], "cpu_by_process",
    )  # fmt: skip


def logprobs(rows: list[dict]) -> None:
    """The likeliest tokens at each position. rows: position, and candidates: list of (token, probability), chosen first.

    Where no token has 1 %, a sentence says so: bars of that width cannot be seen.
    """
    likeliest = max(p for row in rows for _, p in row["candidates"])
    if likeliest < 0.01:
        print(
            f"The model has no preference: the likeliest of all these tokens has {100 * likeliest:.2g} %. A trained model is surer than that."
        )
        return
    fig, ax = figures.figure("What the model could have said", size=(7.5, 0.9 + 0.42 * len(rows)))
    for y, row in enumerate(rows):
        left = 0.0
        for i, (token, p) in enumerate(row["candidates"]):
            ax.barh(
                y,
                p,
                left=left,
                height=0.66,
                color=figures.COLORS[(0, 5, 4)[min(i, 2)]],
                edgecolor="white",
            )
            if p > 0.07:
                ax.text(
                    left + p / 2,
                    y,
                    repr(token)[1:-1],
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if i == 0 else figures.INK,
                )
            left += p
    ax.set_yticks(range(len(rows)), [str(r["position"]) for r in rows])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="probability (the chosen token first)", ylabel="position", xlim=(0, 1))
    sure = sum(r["candidates"][0][1] for r in rows) / len(rows)
    figures.show(
        fig, f"On average the model gave {100 * sure:.0f} % to the token that it chose.",
        [{"position": r["position"], "token": repr(t), "probability": p} for r in rows for t, p in r["candidates"]], "logprobs",
    )  # fmt: skip
