"""The figures of notebook 4: topology, memory, speed-up by cause, the all-reduce line, and the map of choices."""

from __future__ import annotations

import math

from helpers.display import figures as style

PART_NAMES = {
    "matrices": "reading and multiplying weights",
    "elementwise": "norms and activations",
    "attention": "KV cache",
    "sampling": "sampling",
    "allreduce_latency": "all-reduce: latency",
    "allreduce_bandwidth": "all-reduce: bandwidth",
    "hops": "pipeline hops",
    "overhead": "fixed costs",
    "host": "waiting for the CPU",
}


def topology(found, box, caption: str) -> None:
    """GPUs as a ring of boxes with their links, or the CPU's cores and the planned box (hollow: not present).

    found: planning.Inventory of this machine. box: the planning.Box that is planned for.
    """
    fig, (left, right) = style.figure(
        "What is here, and what is planned for", cols=2, size=(9, 3.6)
    )
    here = [d.name.replace("NVIDIA ", "") for d in found.devices] or [
        f"core {i}" for i in range(min(found.cpu_cores, 8))
    ]
    links = found.links if found.devices else None
    _ring(left, here, lambda i, j: links[i][j] if links else "shared memory", present=True)
    left.set_title(
        f"Here: {len(here)} {'GPU' if found.devices else 'CPU core'}{'s' * (len(here) != 1)}",
        fontsize=10,
    )
    planned = [f"GPU {i}" for i in range(min(box.gpus, 8))]
    _ring(right, planned, lambda i, j: box.link_for(2).kind, present=box.present)
    right.set_title(
        ("Here: " if box.present else "Planned, not present: ") + f"{box.gpus} x {box.gpu.name}",
        fontsize=10,
    )
    rows = [{"where": "here", "device": name} for name in here] + [
        {"where": "planned", "device": f"{box.gpu.full_name} {i}"} for i in range(box.gpus)
    ]
    style.show(fig, caption=caption, table=rows, name="topology")


def _ring(ax, names, link, present):
    n = len(names)
    places = [
        (math.cos(math.pi / 2 - 2 * math.pi * i / n), math.sin(math.pi / 2 - 2 * math.pi * i / n))
        for i in range(n)
    ]
    if n == 1:
        places = [(0.0, 0.0)]
    if n == 2:
        places = [(-0.8, 0.0), (0.8, 0.0)]
    kinds = []
    for i in range(n):
        for j in range(i):
            kind = link(i, j)
            kinds.append(kind)
            strong = kind.startswith(("NV", "Infinity"))
            ax.plot(
                *zip(places[i], places[j], strict=True),
                color=style.GREEN if strong else style.GREY,
                lw=2.0 if strong else 1.2,
                ls="-" if present else (0, (5, 2.5)),
                zorder=1,
            )
    look = dict(
        boxstyle="round,pad=0.45",
        fc=style.PAPER,
        ec=style.BLUE,
        lw=1.6,
        ls="-" if present else "--",
    )
    for (x, y), name in zip(places, names, strict=True):
        ax.text(x, y, name, ha="center", va="center", fontsize=8, bbox=look, zorder=3)
    for kind in sorted(set(kinds)):
        ax.text(0, -1.45, " / ".join(sorted(set(kinds))), ha="center", fontsize=8, color=style.GREY)
        break
    ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.4))
    ax.axis("off")


def memory(
    rows: list[dict], capacity_gib: float, caption: str, title: str = "Where one GPU's memory goes"
) -> None:
    """One stacked bar for each plan. rows: {"plan", part: GiB, ...}; capacity_gib: what the GPU has."""
    fig, ax = style.figure(title, size=(8, 0.55 * len(rows) + 2.0))
    parts = [k for k in rows[0] if k != "plan"]
    for y, row in enumerate(rows):
        left = 0.0
        for i, part in enumerate(parts):
            ax.barh(
                y,
                row[part],
                left=left,
                color=style.COLORS[i],
                label=part if y == 0 else None,
                height=0.62,
            )
            if row[part] > 0.06 * capacity_gib:
                ax.text(
                    left + row[part] / 2,
                    y,
                    f"{row[part]:.1f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white",
                )
            left += row[part]
    ax.axvline(capacity_gib, color=style.INK, lw=1.2)
    ax.annotate(
        "the GPU's memory",
        (capacity_gib, len(rows) - 0.55),
        ha="right",
        xytext=(-4, 0),
        textcoords="offset points",
        fontsize=8,
    )
    ax.set_yticks(range(len(rows)), [row["plan"] for row in rows])
    ax.set(xlabel="GiB on each GPU", ylabel="layout", xlim=(0, capacity_gib * 1.04))
    ax.legend(
        ncols=3,
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.28 if len(rows) < 4 else -0.18),
    )
    style.show(fig, caption=caption, table=rows, name="memory_by_plan")


def step_by_cause(
    rows: list[dict],
    caption: str,
    title: str,
    measured: dict | None = None,
    name: str = "step_by_cause",
) -> None:
    """Decode step as a stacked bar for each layout, speed-up above it; measured steps as points beside the bars.

    rows: {"layout", "total_ms", "speedup", part_ms...}. measured: {layout: ms}.
    """
    fig, ax = style.figure(title, size=(7.5, 4.2))
    parts = [p for p in PART_NAMES if any(row.get(p + "_ms", 0) > 0 for row in rows)]
    bottom = [0.0] * len(rows)
    for i, part in enumerate(parts):
        values = [row[part + "_ms"] for row in rows]
        ax.bar(
            range(len(rows)),
            values,
            bottom=bottom,
            color=style.COLORS[i],
            label=PART_NAMES[part],
            width=0.55,
        )
        bottom = [b + v for b, v in zip(bottom, values, strict=True)]
    for x, row in enumerate(rows):
        ax.annotate(
            f"{row['speedup']:.2f}x",
            (x, bottom[x]),
            ha="center",
            xytext=(0, 4),
            textcoords="offset points",
            fontsize=9,
        )
    if measured:
        points = [
            (x, measured[row["layout"]]) for x, row in enumerate(rows) if row["layout"] in measured
        ]
        if points:
            ax.scatter(
                *zip(*points, strict=True),
                marker="D",
                s=46,
                color=style.INK,
                zorder=4,
                label="measured here",
            )
    ax.set_xticks(range(len(rows)), [row["layout"] for row in rows])
    top = max(bottom + list((measured or {}).values()))
    ax.set(ylabel="ms per decode step", xlabel="layout", ylim=(0, top * 1.18))
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    style.show(fig, caption=caption, table=rows, name=name)


def over_batch(rows: list[dict], caption: str) -> None:
    """TPOT with the decode step alone (left) and throughput (right) over requests at once.

    rows: {"layout", "streams", "tpot_ms", "decode_step_ms", "output_tokens_per_s"}.
    """
    fig, (left, right) = style.figure(
        "More requests at once: more tokens in all, a longer wait for each", cols=2, size=(9.4, 4.2)
    )
    for i, layout in enumerate(dict.fromkeys(row["layout"] for row in rows)):
        mine = [row for row in rows if row["layout"] == layout]
        x = [row["streams"] for row in mine]
        look = {"marker": style.MARKERS[i], "color": style.COLORS[i]}
        left.plot(x, [row["tpot_ms"] for row in mine], label=layout, **look)
        left.plot(
            x,
            [row["decode_step_ms"] for row in mine],
            linestyle=":",
            linewidth=1.2,
            label=f"{layout}, decode step alone",
            **look | {"marker": None},
        )
        right.plot(x, [row["output_tokens_per_s"] for row in mine], **look)
    left.set(
        xscale="log",
        xlabel="requests at once",
        ylabel="TPOT, new prompts in between (ms)",
        ylim=(0, None),
    )
    right.set(
        xscale="log", yscale="log", xlabel="requests at once", ylabel="output tokens/s of the box"
    )
    for ax in (left, right):
        ticks = sorted({row["streams"] for row in rows})
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    style.show(fig, caption=caption, table=rows, name="over_batch")


def allreduce(
    rows: list[dict],
    latency_s: float,
    rate: float,
    caption: str,
    label: str,
    more: dict | None = None,
    recorded: bool = False,
) -> None:
    """All-reduce time by payload, measured points on the line latency + bytes / rate; ``more``: further measured rows.

    recorded: the rows are another machine's.
    """
    fig, ax = style.figure(
        "An all-reduce costs its latency until the payload is large", size=(7.5, 4)
    )
    sizes = [row["bytes"] for row in rows]
    look = style.hollow_points(style.BLUE) if recorded else {"color": style.BLUE}
    ax.scatter(sizes, [row["seconds"] * 1e6 for row in rows], zorder=3, label=label, **look)
    low, high = min(sizes), max(sizes)
    line = [low * (high / low) ** (i / 60) for i in range(61)]
    ax.plot(
        line,
        [(latency_s + size / rate) * 1e6 for size in line],
        color=style.RED,
        label=f"{latency_s * 1e6:.0f} us + bytes / ({rate / 1e9:.2f} GB/s)",
    )
    for i, (name, extra) in enumerate((more or {}).items()):
        ax.scatter(
            [r["bytes"] for r in extra],
            [r["seconds"] * 1e6 for r in extra],
            marker=style.MARKERS[i + 1],
            color=style.GREEN,
            label=name,
            zorder=3,
        )
    ax.set(xscale="log", yscale="log", xlabel="bytes on each rank", ylabel="microseconds")
    ax.legend(fontsize=8)
    style.show(
        fig,
        caption=caption,
        table=[{**r, "line_us": (latency_s + r["bytes"] / rate) * 1e6} for r in rows],
        name="allreduce",
    )


def pipeline(stages: int, batches: int, caption: str) -> None:
    """A pipeline's timetable: batches in colour, waiting stages empty."""
    fig, ax = style.figure(
        f"{stages} stages, {batches} batch{'es' * (batches != 1)}: the corners are empty",
        size=(7.5, 0.5 * stages + 1.5),
    )
    for stage in range(stages):
        for batch in range(batches):
            ax.barh(stage, 0.94, left=stage + batch, color=style.COLORS[batch % 7], height=0.8)
            ax.text(
                stage + batch + 0.47,
                stage,
                str(batch + 1),
                ha="center",
                va="center",
                color="white",
                fontsize=8,
            )
    ax.set_yticks(range(stages), [f"stage {i + 1}" for i in range(stages)])
    ax.invert_yaxis()
    ax.set(xlabel="steps", ylabel="pipeline", xlim=(0, stages + batches - 1))
    share = (stages - 1) / (batches + stages - 1)
    style.show(
        fig,
        caption=caption,
        table=[{"stages": stages, "batches": batches, "bubble": share}],
        name=f"pipeline_{batches}",
    )


def choices(ranking, goal_ms: float | None, caption: str) -> None:
    """Every plan that fits: latency against throughput for each GPU; the chosen one marked, the rule of thumb ringed."""
    fig, ax = style.figure(
        "Latency against throughput per GPU, all plans that fit", size=(7.5, 4.6)
    )
    rows = []
    for c in ranking.choices:
        if not c.fits:
            continue
        p = c.prediction
        each = p.output_tokens_per_s / c.gpus
        best = ranking.best is not None and c is ranking.best
        ax.scatter(
            p.mixed_tpot_s * 1e3,
            each,
            s=150 if best else 45,
            marker="*" if best else "o" if c.meets else "x",
            color=style.RED if best else style.BLUE if c.meets else style.GREY,
            zorder=4 if best else 3,
        )
        if ranking.thumb is not None and c is ranking.thumb:
            ax.scatter(
                p.mixed_tpot_s * 1e3,
                each,
                s=230,
                facecolors="none",
                edgecolors=style.GREEN,
                linewidths=1.5,
            )
        rows.append(
            {
                "plan": c.name(),
                "GPUs": c.gpus,
                "TPOT ms": p.mixed_tpot_s * 1e3,
                "TTFT ms": p.ttft_s * 1e3,
                "tokens/s": p.output_tokens_per_s,
                "tokens/s per GPU": each,
                "meets the goal": c.meets,
                "why not": c.why,
                **({"price per million": c.price_per_million} if c.price_per_million else {}),
            }
        )
    named = [c for c in (ranking.best, ranking.thumb) if c is not None]
    for c, offset in zip(dict.fromkeys(named), ((8, 8), (8, -14)), strict=False):
        label = c.name() + (" (chosen)" if c is ranking.best else " (rule of thumb)")
        if c is ranking.best and c is ranking.thumb:
            label = c.name() + " (chosen, and the rule of thumb)"
        ax.annotate(
            label,
            (c.prediction.mixed_tpot_s * 1e3, c.prediction.output_tokens_per_s / c.gpus),
            xytext=offset,
            textcoords="offset points",
            fontsize=8,
        )
    if goal_ms:
        ax.axvline(goal_ms, color=style.INK, lw=1, ls=":")
        ax.annotate(
            "goal",
            (goal_ms, ax.get_ylim()[0]),
            xytext=(3, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ax.set(
        xlabel="TPOT with new prompts arriving (ms)", ylabel="output tokens/s per GPU", xscale="log"
    )
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(value)[0] in "1235" else "")
    ax.margins(x=0.15, y=0.15)
    style.show(fig, caption=caption, table=rows, name="choices")


def predicted_measured(rows: list[dict], caption: str, name: str = "predicted_measured") -> None:
    """Measured against predicted on a square; on the diagonal the prediction was right, the band is 15 %.

    rows: {"what", "measured", "before", "after"} in one unit (ms).
    """
    fig, ax = style.figure("Predicted against measured", size=(6.2, 4.6))
    values = [row[k] for row in rows for k in ("measured", "before", "after") if row.get(k)]
    low, high = min(values) * 0.7, max(values) * 1.4
    ax.fill_between(
        [low, high],
        [low * 0.85, high * 0.85],
        [low * 1.15, high * 1.15],
        color=style.GREY,
        alpha=0.15,
        lw=0,
        label="within 15 %",
    )
    ax.plot([low, high], [low, high], color=style.GREY, lw=1)
    ax.scatter(
        [r["measured"] for r in rows],
        [r["before"] for r in rows],
        **style.hollow_points(style.BLUE),
        label="before calibration",
    )
    ax.scatter(
        [r["measured"] for r in rows],
        [r["after"] for r in rows],
        color=style.RED,
        label="after calibration",
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="measured (ms)",
        ylabel="predicted (ms)",
        xlim=(low, high),
        ylim=(low, high),
    )
    ax.legend(fontsize=8)
    style.show(fig, caption=caption, table=rows, name=name)
