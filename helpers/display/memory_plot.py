"""Memory over time: what the driver sees, phases marked, and what the KV cache really holds."""

from __future__ import annotations

from helpers.display import figures
from helpers.display.figures import BLUE, GREEN, GREY, RED, note


def timeline(sampler, kv, title: str, caption: str, name: str) -> None:
    """Show a MemorySampler's run. See ``draw`` for the arguments and what is raised."""
    fig, values = draw(sampler, kv, title)
    figures.show(fig, caption, table=values, name=name)


def draw(sampler, kv, title: str = "Memory while the engine lived") -> tuple:
    """A MemorySampler's run: (figure, the values of its phases).

    sampler: a helpers.gpu_memory.MemorySampler that ran. kv: pairs
    (start_s, timeline) where ``timeline`` is a Measurement's and ``start_s``
    the sampler's time at which that workload began (``sampler.elapsed_s``
    noted just before it); the KV cache's use is drawn below on the same clock.
    Raises ValueError when the sampler has no samples.
    """
    points, found = list(sampler.samples), sampler.summary()
    if not points:
        why = found["stopped_early"] or ""
        raise ValueError(f"There is nothing to draw: no sample was taken. {why}".strip())
    fig, (top, low) = figures.figure(title, rows=2, size=(8, 5.4), sharex=True)
    _memory(top, points, found)
    times = [point["t_s"] for point in points]
    _phases(top, found["phases"], times[-1])
    _kv_cache(low, kv)
    _phases(low, found["phases"], times[-1], names=False)
    low.set_xlabel("seconds since sampling began")
    top.set_xlim(times[0], max(times[-1], 1e-3))
    return fig, _values(found)


def _memory(ax, points: list[dict], found: dict) -> None:
    device = found["source"].startswith("device")
    label = "all use of the device" if device else "the engine's processes"
    times = [point["t_s"] for point in points]
    steps = {"drawstyle": "steps-post"}  # between two samples nothing is known
    ax.plot(times, [point["used_gib"] for point in points], color=BLUE, label=label, **steps)
    if device:
        own = [point["process_gib"] for point in points]
        own = [float("nan") if value is None else value for value in own]
        ax.plot(times, own, color=RED, linewidth=1.4, label="of it, by this notebook", **steps)
        ax.legend(loc="lower right")
    peak = found["peak_gib"]
    ax.axhline(peak, color=GREY, linewidth=0.9, linestyle=":")
    note(ax, f"peak {peak:.2f} GiB", (times[-1], peak), (0, 3), ha="right", color=GREY)
    ax.set_ylabel("GPU memory (GiB)" if device else "host memory (GiB)")
    ax.set_ylim(0, peak * 1.15 or 1)


def _kv_cache(ax, kv) -> None:
    for start, rows in kv:
        # The gauge is read at a step's end and holds what the step took at its start: drawn over
        # the step. After a workload's last step the cache holds nothing.
        times = [start, *(start + row["t_s"] for row in rows), start + rows[-1]["t_s"]]
        percent = [0, *(100 * row["kv_cache_usage"] for row in rows), 0]
        ax.fill_between(times, percent, color=GREEN, alpha=0.35, step="pre")
        ax.plot(times, percent, color=GREEN, linewidth=1.4, drawstyle="steps-pre")
    ax.set_ylabel("KV cache in use (%)")
    ax.set_ylim(bottom=0)


def _phases(ax, phases: list[dict], end: float, names: bool = True) -> None:
    span = max(end, 1e-9)
    edges = [(phase["start_s"], min(phase["end_s"], end), phase["label"]) for phase in phases]
    # Names stand above the curve; slanted when one of them is wider than its phase.
    slanted = any((stop - start) / span < 0.014 * len(label) for start, stop, label in edges)
    look = {"ha": "left", "rotation": 30} if slanted else {"ha": "center"}
    free = 0.0  # where the next slanted name has room
    for index, (start, stop, label) in enumerate(edges):
        if index % 2 == 0:
            ax.axvspan(start, stop, color="#000000", alpha=0.05, linewidth=0)
        ax.axvline(start, color="#B0B0B0", linewidth=0.8)
        if names:
            at = max(start, free) if slanted else (start + stop) / 2
            free = at + 0.037 * span
            where = {"transform": ax.get_xaxis_transform(), "rotation_mode": "anchor"}
            ax.text(at, 1.02, label, va="bottom", fontsize=8.5, **where, **look)


def _values(found: dict) -> list[dict]:
    columns = {
        "phase": "label",
        "start (s)": "start_s",
        "end (s)": "end_s",
        "peak (GiB)": "peak_gib",
        "at its end (GiB)": "end_gib",
    }
    return [{name: phase[key] for name, key in columns.items()} for phase in found["phases"]]
