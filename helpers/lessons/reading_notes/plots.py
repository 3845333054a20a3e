"""The figures of notebook 3. Each takes what helpers.lessons.papers and the measurements return and draws it."""

from __future__ import annotations

from helpers.display import figures as style
from helpers.display.numbers import number

PARTS = (
    ("tokens", "tokens held", style.BLUE),
    ("reserved", "reserved for later", style.SKY),
    ("internal", "never used by its request", style.ORANGE),
    ("external", "free or lost between", style.YELLOW),
)


def allocators(
    ours: dict[str, dict[str, float]], printed: dict[str, dict[str, float]], caption: str
) -> None:
    """Stacked bars in percent: our simulation beside Figure 2, by policy."""
    fig, ax = style.figure("Paging keeps nearly all of the KV cache for tokens", size=(8, 4.2))
    names = {
        "max": "reserve\nmaximum",
        "pow2": "powers\nof two",
        "oracle": "oracle",
        "paged": "paged",
    }
    rows = []
    for i, policy in enumerate(ours):
        for shift, who, parts in ((-0.21, "ours", ours[policy]), (0.21, "paper", printed[policy])):
            bottom = 0.0
            for key, label, colour in PARTS:
                value = parts.get(key, 0.0)
                ax.bar(i + shift, value, 0.38, bottom=bottom, color=colour,
                       label=label if i == 0 and who == "ours" else None,
                       **({"hatch": "///", "edgecolor": "white", "linewidth": 0} if who == "paper" else {}))  # fmt: skip
                if value >= 6:
                    ax.text(
                        i + shift,
                        bottom + value / 2,
                        f"{value:.0f}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="white" if colour == style.BLUE else style.INK,
                        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
                    )  # over the hatching
                bottom += value
            rows.append(
                {"policy": policy, "who": who, **{label: parts.get(key) for key, label, _ in PARTS}}
            )
    ax.set_xticks(range(len(ours)), [f"{names.get(p, p)}" for p in ours])
    ax.set(
        ylabel="share of the KV cache (%)",
        ylim=(0, 100),
        xlabel="left bar: our simulation; hatched: Figure 2 of the paper",
    )
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.24), columnspacing=1.2)
    ax.grid(axis="x", visible=False)
    style.show(fig, caption=caption, table=rows, name="papers_allocators")


def block_sizes(rows: list[dict], caption: str) -> None:
    """Share of the cache that holds tokens, by block size; rows: block_size, tokens (percent), waste_per_request."""
    fig, (left, right) = style.figure(
        "Large blocks waste what small ones keep", cols=2, size=(9, 3.5)
    )
    sizes = [r["block_size"] for r in rows]
    left.plot(sizes, [r["tokens"] for r in rows], marker="o")
    left.set(
        xscale="log",
        xlabel="block size (tokens)",
        ylabel="cache that holds tokens (%)",
        ylim=(None, 100),
    )
    waste = [
        r for r in rows if r["block_size"] > 1
    ]  # blocks of one token waste nothing, which a log axis cannot show
    right.plot(
        [r["block_size"] for r in waste],
        [r["waste_per_request"] for r in waste],
        marker="o",
        label="simulated",
    )
    right.plot(
        [r["block_size"] for r in waste],
        [(r["block_size"] - 1) / 2 for r in waste],
        label="(block - 1) / 2",
        marker="s",
        **style.hollow_line(),
    )
    right.set(
        xscale="log", yscale="log", xlabel="block size (tokens)", ylabel="slots wasted per request"
    )
    right.legend()
    for ax in (left, right):
        ax.set_xticks(sizes, [str(s) for s in sizes])
        ax.minorticks_off()
    style.show(fig, caption=caption, table=rows, name="papers_block_sizes")


def sharing(rows: list[dict], caption: str) -> None:
    """Blocks saved by sharing; rows: width, kind, saved_percent, printed."""
    fig, ax = style.figure("Sequences that share a past share its blocks", size=(7, 3.6))
    for i, (kind, label) in enumerate(
        (("parallel", "parallel samples"), ("beam", "beams, regrouped at every step"))
    ):
        mine = [r for r in rows if r["kind"] == kind]
        ax.plot([r["width"] for r in mine], [r["saved_percent"] for r in mine], marker=style.MARKERS[i],
                color=style.COLORS[i], label=f"{label}, ours")  # fmt: skip
        ax.plot(
            [r["width"] for r in mine],
            [r["printed"] for r in mine],
            marker=style.MARKERS[i],
            label=f"{kind}, Figure 15",
            **style.hollow_line(style.COLORS[i]),
        )
    ax.set(
        xlabel="sequences of one request",
        ylabel="blocks saved (%)",
        ylim=(0, None),
        xticks=sorted({r["width"] for r in rows}),
    )
    ax.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    style.show(fig, caption=caption, table=rows, name="papers_sharing")


def blocks_in_use(rows: list[dict], block_size: int, caption: str) -> None:
    """The real engine, step by step; rows: step, blocks (vLLM), blocks_predicted, tokens."""
    fig, ax = style.figure("vLLM hands out a block when a request reaches it", size=(7.5, 3.8))
    steps = [r["step"] for r in rows]
    ax.step(
        steps,
        [r["blocks"] * block_size for r in rows],
        where="mid",
        label="slots in the blocks in use (vLLM's gauge)",
        linewidth=2.4,
    )
    ax.step(steps, [r["blocks_predicted"] * block_size for r in rows], where="mid", color=style.BLACK, linewidth=1,
            linestyle=":", label="sum of ceil(tokens / block), in slots")  # fmt: skip
    ax.plot(steps, [r["tokens"] for r in rows], color=style.RED, label="tokens held")
    ax.set(xlabel="engine step", ylabel="slots", ylim=(0, None))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    every = max(1, len(rows) // 40)
    style.show(fig, caption=caption, table=rows[::every], name="papers_blocks_in_use")


def places(schedules: dict, caption: str, max_batch: int) -> None:
    """Which request holds which place of the batch, over time; schedules: label -> Schedule."""
    fig, axes = style.figure("Continuous batching refills a place as soon as it is free", rows=len(schedules), size=(8.5, 1.0 + 1.5 * len(schedules)),
                             sharex=True)  # fmt: skip
    table = []
    for ax, (label, schedule) in zip(axes, schedules.items(), strict=True):
        place: dict[int, int] = {}
        began: dict[int, float] = {}
        for step in schedule.steps:
            place = {r: p for r, p in place.items() if r in step.requests}
            for request in step.requests:
                if request not in place:
                    place[request] = min(p for p in range(max_batch) if p not in place.values())
                    began[request] = 1000 * step.start_s
                    end = 1000 * schedule.served[request].token_s[-1]
                    ax.barh(place[request] + 1, end - began[request], left=began[request], height=0.86,
                            color=style.COLORS[(0, 1, 2, 3, 4, 5)[request % 6]], edgecolor="white")  # fmt: skip
                    ax.text(
                        (began[request] + end) / 2,
                        place[request] + 1,
                        f"{request + 1}",
                        ha="center",
                        va="center",
                        fontsize=8,
                    )
        for request, served in enumerate(schedule.served):
            table.append(
                {
                    "policy": label,
                    "request": request + 1,
                    "starts (ms)": began[request],
                    "done (ms)": 1000 * served.e2e_s,
                }
            )
        ax.set_title(
            f"{label}: {1000 * schedule.duration_s:,.0f} ms", fontsize=10, fontweight="normal"
        )
        ax.set(yticks=range(1, max_batch + 1), ylabel="place")
        ax.grid(axis="y", visible=False)
    axes[-1].set_xlabel("ms")
    style.show(fig, caption=caption, table=table, name="papers_places")


def traffic(by_tokens: list[dict], by_sram: list[dict], caption: str) -> None:
    """Numbers moved: over the sequence (left) and over the fast memory (right), log-log.

    by_tokens: tokens, standard, flash. by_sram: sram, flash, standard.
    """
    fig, (left, right) = style.figure(
        "Traffic to slow memory: quadratic, but with a smaller factor", cols=2, size=(9, 3.8)
    )
    for ax, rows, x, label in (
        (left, by_tokens, "tokens", "tokens N"),
        (right, by_sram, "sram", "fast memory M (numbers)"),
    ):
        for i, (key, name) in enumerate((("standard", "standard"), ("flash", "tiled"))):
            ax.plot(
                [r[x] for r in rows],
                [r[key] for r in rows],
                marker=style.MARKERS[i],
                color=style.COLORS[i],
                label=name,
            )
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="numbers moved per head")
        ax.set_xscale("log", base=2)
    left.legend()
    table = [
        {"over": "tokens", "value": r["tokens"], "standard": r["standard"], "tiled": r["flash"]}
        for r in by_tokens
    ]
    table += [
        {"over": "fast memory", "value": r["sram"], "standard": r["standard"], "tiled": r["flash"]}
        for r in by_sram
    ]
    style.show(fig, caption=caption, table=table, name="papers_traffic")


def attention_times(
    rows: list[dict], caption: str, device: str, recorded: list[dict] = (), recorded_on: str = ""
) -> None:
    """torch's attention by backend; rows: tokens, backend, ms, extra_mib (None where torch does not count it).

    recorded: the same from another machine, drawn dashed.
    """
    memory = [r for r in (*rows, *recorded) if r.get("extra_mib")]
    fig, axes = style.figure(f"Attention with (math) and without (flash) the N x N scores, on {device}", cols=2 if memory else 1,
                             size=(9.4 if memory else 7, 4.4))  # fmt: skip
    panels = [("ms", "ms per call")] + [
        ("extra_mib", "memory besides inputs and output (MiB)")
    ] * bool(memory)
    for ax, (key, label) in zip(axes if memory else [axes], panels, strict=True):
        for i, backend in enumerate(dict.fromkeys(r["backend"] for r in rows)):
            mine = [r for r in rows if r["backend"] == backend and r.get(key)]
            if mine:
                ax.plot(
                    [r["tokens"] for r in mine],
                    [r[key] for r in mine],
                    marker=style.MARKERS[i],
                    color=style.COLORS[i],
                    label=backend,
                )
            theirs = [r for r in recorded if r["backend"] == backend and r.get(key)]
            if key == "extra_mib" and any(
                r["backend"] == backend and r.get(key) == 0 for r in (*rows, *recorded)
            ):
                ax.plot(
                    [],
                    [],
                    marker=style.MARKERS[i],
                    color=style.COLORS[i],
                    label=f"{backend}: 0 MiB, below a log axis",
                )
            if theirs:
                ax.plot([r["tokens"] for r in theirs], [r[key] for r in theirs], marker=style.MARKERS[i],
                        label=f"{backend}, recorded: {recorded_on}", **style.hollow_line(style.COLORS[i]))  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        sizes = sorted({r["tokens"] for r in (*rows, *recorded)})
        ax.set_xticks(sizes, [f"{s:,}" for s in sizes], rotation=40 if len(sizes) > 5 else 0)
        ax.minorticks_off()
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)
    table = [{**r, "machine": device} for r in rows] + [
        {**r, "machine": recorded_on} for r in recorded
    ]
    style.show(fig, caption=caption, table=table, name="papers_attention_times")


def products(
    rows: list[dict], knee: float, caption: str, recorded: list[dict] = (), recorded_on: str = ""
) -> None:
    """Time of a layer's product by batch, and the shares of both ceilings that it reached; `recorded` dashed."""
    fig, (left, right) = style.figure(
        "Another row is nearly free until arithmetic becomes the limit", cols=2, size=(9.6, 4.3)
    )
    batches = [r["batch"] for r in rows]
    left.plot(batches, [r["ms"] for r in rows], marker="o", label="measured here")
    left.plot(
        batches,
        [r["allowed_ms"] for r in rows],
        marker="s",
        color=style.SKY,
        label="what the ceilings allow",
    )
    left.set(yscale="log", ylabel="ms per product")
    shares = (("share_of_bandwidth", "memory"), ("share_of_arithmetic", "arithmetic"))
    for i, (key, name) in enumerate(shares):
        right.plot(
            batches,
            [100 * r[key] for r in rows],
            marker=style.MARKERS[i],
            color=style.COLORS[i],
            label=f"of the {name} ceiling",
        )
    if recorded:
        there = [r["batch"] for r in recorded]
        left.plot(
            there,
            [r["ms"] for r in recorded],
            marker="o",
            label=f"recorded: {recorded_on}",
            **style.hollow_line(),
        )
        for i, (key, name) in enumerate(shares):
            right.plot(there, [100 * r[key] for r in recorded], marker=style.MARKERS[i], label=f"{name}, recorded: {recorded_on}",
                       **style.hollow_line(style.COLORS[i]))  # fmt: skip
    right.set(ylabel="share reached (%)", ylim=(0, 110))
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ticks = sorted({*batches, *(r["batch"] for r in recorded)})
        ax.set_xticks(ticks, [str(b) for b in ticks], rotation=45 if len(ticks) > 9 else 0)
        ax.axvline(knee, color=style.GREY, linewidth=1, linestyle=":")
        ax.set_xlabel("rows in the batch (dotted: this machine's knee)")
    left.legend(loc="upper left")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.26), ncols=2)
    table = [{**r, "machine": "here"} for r in rows] + [
        {**r, "machine": recorded_on} for r in recorded
    ]
    style.show(fig, caption=caption, table=table, name="papers_products")


def stalls(schedules: dict, budgets: list[dict], caption: str) -> None:
    """Gaps between tokens of running requests (left) and their p99 by token budget (right).

    schedules: label -> Schedule. budgets: token_budget, itl_ms_p99, ttft_ms_p50.
    """
    fig, (left, right) = style.figure("Chunks keep running answers moving", cols=2, size=(9.4, 3.9))
    for i, (label, schedule) in enumerate(schedules.items()):
        points = [
            (t, 1000 * g)
            for s in schedule.served
            for t, g in zip(s.token_s[1:], s.gaps_s, strict=True)
        ]
        points = sorted(points, key=lambda p: -p[1])[
            : max(200, len(points) // 20)
        ]  # the largest gaps tell the story
        left.scatter(
            [p[0] for p in points],
            [p[1] for p in points],
            s=9,
            marker=style.MARKERS[i],
            color=style.COLORS[i],
            label=label,
        )
    left.set(xlabel="s", ylabel="gap between two tokens (ms)", ylim=(0, None))
    left.legend(loc="upper right")
    sizes = [r["token_budget"] for r in budgets]
    right.plot(
        sizes, [r["itl_ms_p99"] for r in budgets], marker="o", label="gap between tokens, p99"
    )
    right.plot(sizes, [r["ttft_ms_p50"] for r in budgets], marker="s", label="TTFT, p50")
    right.set_xscale("log", base=2)
    right.set_xticks(sizes, [str(s) for s in sizes])
    right.set(xlabel="token budget of a step", ylabel="ms", ylim=(0, None))
    right.legend()
    style.show(fig, caption=caption, table=budgets, name="papers_stalls")


def speculation(
    curves: dict[int, list[tuple[float, float]]],
    printed: dict,
    measured: list[dict],
    c: float,
    caption: str,
) -> None:
    """Speed-up over the acceptance rate for several gamma; Table 1 as hollow points, our measurements as stars.

    curves: gamma -> [(alpha, speed-up)]. printed: (alpha, gamma) -> (operations, speed). measured: alpha,
    gamma, speedup.
    """
    fig, ax = style.figure(
        f"What an acceptance rate is worth (draft cost c = {c:g})", size=(9 if measured else 7.2, 4)
    )
    rows = []
    for i, (gamma, points) in enumerate(curves.items()):
        ax.plot(
            [p[0] for p in points],
            [p[1] for p in points],
            color=style.COLORS[i],
            label=f"{gamma} drafted",
        )
        rows += [
            {"drafted": gamma, "alpha": a, "speed-up": s, "from": "formula"}
            for a, s in points[:: max(1, len(points) // 5)]
        ]
        mine = [(a, v[1]) for (a, g), v in printed.items() if g == gamma]
        ax.scatter(
            [p[0] for p in mine],
            [p[1] for p in mine],
            s=55,
            zorder=3,
            **style.hollow_points(style.COLORS[i]),
        )
        rows += [
            {"drafted": gamma, "alpha": a, "speed-up": s, "from": "Table 1 (c = 0)"}
            for a, s in mine
        ]
    top = 8.0
    for n, m in enumerate(measured, 1):
        name = m.get("label", "measured")
        seen = min(
            m["speedup"], 0.96 * top
        )  # a point above the picture stands at its edge, with its number
        beyond = f" ({m['speedup']:.1f}x)" if seen < m["speedup"] else ""
        ax.scatter(
            m["alpha"],
            seen,
            marker="*",
            s=130,
            color=style.BLACK,
            zorder=4,
            label=f"{n}: {name}{beyond}",
        )
        ax.annotate(
            str(n),
            (m["alpha"], seen),
            xytext=(-9, 5),
            textcoords="offset points",
            fontsize=9,
            fontweight="bold",
        )
        rows.append(
            {"drafted": m["gamma"], "alpha": m["alpha"], "speed-up": m["speedup"], "from": name}
        )
    ax.scatter([], [], s=55, label="Table 1 of the paper (c = 0)", **style.hollow_points())
    ax.axhline(1, color=style.GREY, linewidth=1)
    ax.set(xlabel="acceptance rate alpha", ylabel="speed-up (x)", xlim=(0, 1.02), ylim=(0, top))
    # The curves and the paper's points above left, the measured runs beside the picture.
    handles, labels = ax.get_legend_handles_labels()
    first = [i for i, label in enumerate(labels) if not label[0].isdigit() or "drafted" in label]
    ax.add_artist(
        ax.legend([handles[i] for i in first], [labels[i] for i in first], loc="upper left")
    )
    if measured:
        rest = [i for i in range(len(labels)) if i not in first]
        ax.legend([handles[i] for i in rest], [labels[i] for i in rest], title="measured in notebook 2", loc="upper left",
                  bbox_to_anchor=(1.01, 1), handlelength=0.5)  # fmt: skip
    style.show(fig, caption=caption, table=rows, name="papers_speculation")


def cost_bars(rows: list[dict], caption: str) -> style.Picture:
    """Price per million tokens after each change; rows: change, per_million, ratio. Returned: a form shows it anew."""
    fig, ax = style.figure("What changes the price of a million tokens", size=(8, 3.3))
    names = [r["change"] for r in rows][::-1]
    values = [r["per_million"] for r in rows][::-1]
    colours = [(style.RED if r["change"] == "as it is" else style.BLUE) for r in rows][::-1]
    ax.barh(names, values, color=colours)
    for i, value in enumerate(values):
        ax.text(value, i, f" {number(float(value))}", va="center", fontsize=9)
    ax.set(
        xlabel="price of a million output tokens (your currency)",
        xlim=(0, max(values) * 1.15),
        ylabel="change",
    )
    ax.grid(axis="y", visible=False)
    return style.Picture(fig, caption, rows, "papers_cost")
