"""Memory over time: what the driver sees, phases marked, and what the KV cache really holds."""

from __future__ import annotations

from helpers.display import figures
from helpers.display.numbers import number


def timeline(
    sampler,
    kv=(),
    title: str = "Memory while the engine lived",
    caption: str | None = None,
    name: str = "memory_timeline",
) -> None:
    """Show a MemorySampler's run. See ``draw`` for the arguments."""
    fig, said, rows = draw(sampler, kv, title)
    figures.show(fig, caption or said, table=rows, name=name)


def draw(sampler, kv=(), title: str = "Memory while the engine lived"):
    """Returns (figure, its caption, the values of its phases).

    sampler: a helpers.gpu_memory.MemorySampler that ran. kv: pairs
    (start_s, timeline) where ``timeline`` is a Measurement's and ``start_s``
    the sampler's time at which that workload began (``sampler.elapsed_s``
    noted just before it); the KV cache's use is drawn below on the same clock.
    Raises ValueError when the sampler has no samples.
    """
    points, found = sampler.timeline(), sampler.summary()
    if not points:
        raise ValueError(
            f"There is nothing to draw: no sample was taken. {found['stopped_early'] or ''}".strip()
        )
    kv = [(start, rows) for start, rows in kv if rows]
    fig, axes = figures.figure(
        title, rows=2 if kv else 1, size=(8, 5.4 if kv else 3.8), sharex=True
    )
    top = axes[0] if kv else axes
    if not kv:  # the phases' names need the place of the axes' title
        top.set_title("")
        fig.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    times, used = [p["t_s"] for p in points], [p["used_gib"] for p in points]
    process = [p["process_gib"] for p in points]
    device = found["source"].startswith("device")
    top.plot(
        times,
        used,
        color=figures.COLORS["blue"],
        label="all use of the device" if device else "the engine's processes",
    )
    if device and any(value is not None for value in process):
        values = [float("nan") if value is None else value for value in process]
        top.plot(
            times,
            values,
            color=figures.COLORS["vermillion"],
            linewidth=1.4,
            label="of it, by this notebook",
        )
    top.axhline(found["peak_gib"], color=figures.GREY, linewidth=0.9, linestyle=":")
    top.annotate(
        f"peak {found['peak_gib']:.2f} GiB", (times[-1], found["peak_gib"]), xytext=(0, 3), textcoords="offset points",
        ha="right", fontsize=9, color=figures.GREY,
    )  # fmt: skip
    top.set_ylabel("GPU memory (GiB)" if device else "host memory (GiB)")
    top.set_ylim(0, found["peak_gib"] * 1.15 or 1)
    if device:
        top.legend(loc="lower right")
    _phases(top, found["phases"], times[-1])
    if kv:
        low = axes[1]
        for start, rows in kv:
            # Before a workload's first step and after its last the cache holds nothing.
            t = [start, *(start + row["t_s"] for row in rows), start + rows[-1]["t_s"]]
            low.fill_between(
                t,
                [0, *(100 * row["kv_cache_usage"] for row in rows), 0],
                color=figures.COLORS["green"],
                alpha=0.35,
            )
            low.plot(
                t,
                [0, *(100 * row["kv_cache_usage"] for row in rows), 0],
                color=figures.COLORS["green"],
                linewidth=1.4,
            )
        low.set_ylabel("KV cache in use (%)")
        low.set_ylim(bottom=0)
        _phases(low, found["phases"], times[-1], names=False)
    (axes[1] if kv else axes).set_xlabel("seconds since sampling began")
    for ax in axes if kv else [axes]:
        ax.set_xlim(times[0], max(times[-1], 1e-3))
    rows = [
        {"phase": p["label"], "start (s)": p["start_s"], "end (s)": p["end_s"], "peak (GiB)": p["peak_gib"], "at its end (GiB)": p["end_gib"]}
        for p in found["phases"]
    ] or [{"start (GiB)": found["start_gib"], "peak (GiB)": found["peak_gib"], "sustained (GiB)": found["sustained_gib"], "end (GiB)": found["end_gib"]}]  # fmt: skip
    return fig, _caption(found, kv), rows


def _phases(ax, phases: list[dict], end: float, names: bool = True) -> None:
    span = max(end, 1e-9)
    edges = [(phase["start_s"], min(phase["end_s"], end), phase["label"]) for phase in phases]
    # Names stand above the curve; slanted when one of them is wider than its phase.
    slanted = any((stop - start) / span < 0.014 * len(label) for start, stop, label in edges)
    free = 0.0  # where the next slanted name has room
    for index, (start, stop, label) in enumerate(edges):
        if index % 2 == 0:
            ax.axvspan(start, stop, color="#000000", alpha=0.05, linewidth=0)
        ax.axvline(start, color="#B0B0B0", linewidth=0.8)
        if names:
            at = max(start, free) if slanted else (start + stop) / 2
            free = at + 0.037 * span
            ax.text(
                at, 1.02, label, transform=ax.get_xaxis_transform(),
                ha="left" if slanted else "center", va="bottom", rotation=30 if slanted else 0,
                rotation_mode="anchor", fontsize=8.5, color=figures.INK,
            )  # fmt: skip


def _caption(found: dict, kv) -> str:
    where = max(found["phases"], key=lambda p: p["peak_gib"] or 0, default=None)
    said = f"The peak is {found['peak_gib']:.2f} GiB" + (
        f", during “{where['label']}”" if where else ""
    )
    said += f"; {found['sustained_gib']:.2f} GiB is the median of the second half"
    if kv:
        most = 100 * max(row["kv_cache_usage"] for _, rows in kv for row in rows)
        said += (
            f"; the KV cache is at most {number(most)} % full, which the memory curve does not show"
        )
    said += f". This is {found['source']}."
    return said + (f" {found['stopped_early']}" if found["stopped_early"] else "")
