"""Notebook 3's tables "the paper says / we get / what differs", from what it has computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from helpers.display import card
from helpers.display.numbers import number
from helpers.lessons import gain_ranges
from helpers.lessons.drafters import drafters_elsewhere
from helpers.lessons.papers import paged_attention, speculative
from helpers.lessons.papers.flash_attention import tile_sizes
from helpers.lessons.reading_notes import wording
from helpers.results import recorded
from helpers.results.wording import value_of
from helpers.verdicts.gain import Gain


class Claim(NamedTuple):
    """One line of the table; our number is simulated by helpers/lessons/papers.

    key: the line's name in the results. paper: the number as the paper prints it.
    """

    key: str
    what: str
    paper: float
    ours: float
    unit: str
    why: str


def show_claims(store, paper: str, claims: list[Claim]) -> None:
    """Show the table, save each line: experiment "paper_claims", "paper: key"."""
    rows = []
    for claim in claims:
        unit, ratio = claim.unit, claim.ours / claim.paper
        numbers = {"ours": claim.ours, "paper": claim.paper, "ratio": ratio}
        about = {"unit": unit, "what": claim.what, "why": claim.why, "source": "formula"}
        store.save("paper_claims", f"{paper}: {claim.key}", numbers, **about)
        row = {"claim": claim.what, f"{paper} says": f"{claim.paper:.4g} {unit}".strip()}
        row["we get"] = f"{number(float(claim.ours))} {unit}".strip() + " (simulated)"
        rows.append(row | {"ours / theirs": f"{ratio:.2f}", "what differs": claim.why})
    card.show(card.table(rows, f"{paper}: the paper's numbers beside ours"))


# ---------------------------------------------------------------- the papers' lines


def paged(usage: dict) -> list[Claim]:
    """PagedAttention's Figures 2 and 13. usage: policy -> `paged_attention.Usage`."""
    unsplit = "The paper does not say what its other 3.7 % hold."
    held = paged_attention.FIGURE_2["paged"]["tokens"], 100 * usage["paged"].tokens
    share = "share of the cache that holds tokens, paged (Figure 2)"
    batch = "requests in the batch, paged (Figure 13)"
    fit = paged_attention.FIGURE_13["paged"], usage["paged"].mean_running
    waits = "Theirs came at 2 requests/s; ours wait for memory all the time."
    return [
        Claim("tokens_paged", share, *held, "%", unsplit),
        Claim("batch_paged", batch, *fit, "", waits),
    ]


def flash(counted: list[dict]) -> list[Claim]:
    """FlashAttention's role of the fast memory (theorem 2).

    counted: rows of the notebook's table: one, then several of twice its tokens, with
    a larger fast memory each.
    """
    sizes, moves = zip(*((r["fast memory"], r["tiles move"]) for r in counted[1:]), strict=True)
    tokens = counted[1]["tokens"]
    once = 2 * tokens * 64  # K and V, in heads of 64
    parts = [tokens / tile_sizes(64, size)[1] for size in sizes]  # of the keys, in tiles

    def exponent(numbers) -> float:
        return float(np.polyfit(np.log(sizes), np.log(numbers), 1)[0])

    apart = [n - once for n in moves]
    exact = [n * part / np.ceil(part) for n, part in zip(apart, parts, strict=True)]
    moved = (
        "exponent of the fast memory M in the traffic of the tiles (theorem 2), fitted to the "
        f"{len(sizes)} rows of {tokens:,} tokens"
    )
    last = (
        f"K and V are read once whatever M: without them the fit gives {exponent(apart):.2f}. The "
        f"keys come in whole tiles, {np.ceil(parts[-1]):.0f} at the largest M; with the "
        f"{parts[-1]:.2f} that would do, the fit gives {exponent(exact):.2f}."
    )
    return [Claim("memory_size", moved, -1, exponent(moves), "", last)]


def recap(store) -> None:
    """Show what the papers' mechanisms gained here, beside what was recorded on a GPU."""
    rows, where = [], ""
    for what, experiment, variant in (
        ("paged over reserved KV cache", "reserving", "paged"),
        ("continuous batching over waves", "continuous_batching", "continuous"),
        ("FlashAttention over math, on bare tensors", "attention", "tiles over math"),
    ):
        row = {"mechanism": what}
        if here := store.get(experiment, variant):
            row["here"] = _gain(here, here.get("shape"))
        if there := {r["variant"]: r for r in recorded.records(experiment)}.get(variant):
            where = recorded.label_of(there)
            row["recorded"] = _gain(there, there.get("shape", wording.H100_SHAPE))
        rows.append(row)
    drafts = {"mechanism": "four drafts of a draft model, a = 0.8 set by hand (notebook 2)"}
    if here := store.get("speculation", "synthetic, a=0.8"):
        drafts["here"] = value_of(here, "tpot_gain_x")
    if there := speculation_elsewhere(gamma=4)[0].get("draft model"):
        drafts["recorded"] = f"{wording.near_08(there)['speedup']:.2f}x (one stream)"
    card.show(card.table([*rows, drafts], f"How many times as fast; recorded: {where}"))


def _gain(record: dict, shape: str | None) -> str:
    said = value_of(record, "speedup_x")
    if tokens := record["metrics"].get("tokens"):
        said += f" at {tokens:,} tokens, the longest" + (f"; {shape}" if shape else "")
    return said


# ---------------------------------------------------------------- notebook 2's runs


# With fewer drafts an acceptance rate, and a gain of the run that they sped up, mean nothing: at 50
# the rate is known to within 0.15.
LEAST_DRAFTS = 50


def speculation_on_record(store) -> list[dict]:
    """Speculative runs that notebook 2 saved with a speed-up.

    Rows: label, gamma (drafts a step), drafts (of the run), mean_length (tokens a step), speedup,
    gain (the same with its range), and slower: how many times as long a step takes with its
    drafts, by all rates set by hand; None for other runs.
    """
    runs = []
    for record in store.records():
        metrics = record["metrics"]
        config = (record.get("engine_args") or {}).get("speculative_config") or {}
        length, gain = metrics.get("mean_acceptance_length"), Gain.read(metrics, "tpot_gain_x")
        gamma = metrics.get("num_speculative_tokens") or config.get("num_speculative_tokens")
        if not record["notebook"].startswith("02") or not gain or not gamma:
            continue
        if length and 1 <= length <= gamma + 1:
            runs.append({
                "label": record["variant"].replace("_", " "),
                "gamma": int(gamma),
                "drafts": int(metrics.get("drafted", 0)),
                "mean_length": float(length),
                "speedup": gain.estimate,
                "gain": gain,
                "slower": Gain.read(metrics, "step_x"),
            })  # fmt: skip
    return runs


def with_enough_drafts(runs: Iterable[dict], gamma: int | None = None) -> list[dict]:
    """The runs of `speculation_on_record` with drafts enough to explain their speed-up."""
    return [r for r in runs if r["drafts"] >= LEAST_DRAFTS and gamma in (None, r["gamma"])]


def show_speculation(runs: list[dict]) -> None:
    """A table of the runs, to which the notebook has given alpha and c."""
    table = [
        {
            "run": run["label"],
            "k": run["gamma"],
            "tokens per step": round(run["mean_length"], 2),
            "a": round(run["alpha"], 2),
            "speed-up": round(run["speedup"], 2),
            "its range": gain_ranges.in_words(run["gain"]),
            "all-in c": round(run["c"], 2),
        }
        for run in with_enough_drafts(runs)
    ]
    if not table:
        print("Notebook 2 has saved no such run in this folder: your own curve is missing.")
        return
    card.show(card.table(table, f"Your runs with {LEAST_DRAFTS} drafts or more"))


def own_draft_cost(runs: list[dict], gamma: int) -> tuple[tuple[float, float, float], str] | None:
    """(low, middle, high) of the draft model's all-in c with `gamma` tokens, and of which runs.

    Of the rates set by hand, which are many runs of one session; without them of the draft model's
    own text. None without either, or without a range.
    """
    runs = [run for run in with_enough_drafts(runs, gamma) if run["gain"].span]
    for run in runs:
        if (x := run["slower"]) and x.span:
            ends = (x.low, x.estimate, x.high)
            return tuple(max(0.0, end - 1) / gamma for end in ends), wording.BY_HAND
    for run in runs:
        if run["label"] == f"draft model, k={gamma}":
            return speculative.draft_cost(run["gain"], run["alpha"], gamma), wording.OWN_TEXT
    return None


def speculation_elsewhere(gamma: int) -> tuple[dict[str, list[dict]], str]:
    """Runs on another machine whose acceptance was set by hand: a drafter's name -> its runs.

    Runs by rising alpha: alpha and speedup, by output tokens/s. And where that was, in one line;
    ({}, "") without a record.
    """

    def point(row: dict) -> dict:
        alpha = speculative.alpha_from_length(row["mean_acceptance_length"], gamma)
        return {"alpha": alpha, "speedup": Gain.read(row, "speedup_x").estimate}

    by_name, where = drafters_elsewhere("one stream", "mean_acceptance_length")
    return {name: [point(row) for row in rows] for name, rows in by_name.items()}, where


def chunks_on_record(store) -> tuple[list[dict], str]:
    """What notebook 2 measured with each token budget, the largest first; and where.

    Without such runs in this folder what was recorded on a GPU; "" when they are this folder's own.

    Rows: max_num_batched_tokens, itl_ms_p99 of the streams, ttft_long_ms_p50 of the long prompts.
    """
    records = store.records(experiment="chunked_prefill")
    rows = [r["metrics"] for r in records if r["notebook"].startswith("02")]
    where = ""
    if not rows:
        rows, where = recorded.curve("chunked_prefill")
    in_order = sorted(rows, key=lambda row: -row["max_num_batched_tokens"])
    return in_order, where
