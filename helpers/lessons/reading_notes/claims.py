"""Notebook 3's tables "the paper says / we get / why they differ", from what it has computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from helpers.display import card
from helpers.display.numbers import number
from helpers.lessons import gain_ranges
from helpers.lessons.drafters import drafters_elsewhere
from helpers.lessons.papers import paged_attention, speculative
from helpers.lessons.reading_notes import wording
from helpers.results import recorded
from helpers.verdicts.gain import Gain


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    key: the line's name in the results. paper: the number as the paper prints it, or None for a
    claim in words (`what` says it). ours: None when it is not rebuilt here. how: where our number
    is from: "measured", or "simulated" by the small models of helpers/lessons/papers. span: the
    range of what was measured several times, shown instead of its middle.
    """

    key: str
    what: str
    paper: float | None
    ours: float | None
    unit: str
    why: str
    how: str = "measured"
    span: tuple[float, float] | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """`ours`, and beside a number of the paper's `paper` and `ratio` (ours / paper)."""
        if self.paper is None:
            return {"ours": self.ours}
        return {"ours": self.ours, "paper": self.paper, "ratio": self.ours / self.paper}

    def row(self, paper: str) -> dict:
        """The line as the table shows it."""
        said, got, ratio = "in words", "not measured here", ""
        if self.paper is not None:
            said = f"{self.paper:.4g} {self.unit}".strip()  # as printed
        if self.ours is not None:
            values = map(number, self.span or (float(self.ours),))
            got = f"{' to '.join(values)} {self.unit}".strip()
            got += "" if self.how == "measured" else f" ({self.how})"
            ratio = f"{self.metrics['ratio']:.2f}" if self.paper else ""
        return {
            "claim": self.what,
            f"{paper} says": said,
            "we get": got,
            "ours / theirs": ratio,
            "why they differ": self.why,
        }


NAMES = {"max": "maximum reserved", "paged": "paged"}
simulated = partial(Claim, how="simulated")


def show_claims(store, paper: str, claims: list[Claim]) -> None:
    """Show the table, save each line with our number: experiment "paper_claims", "paper: key"."""
    for claim in claims:
        if claim.ours is not None:
            store.save(
                "paper_claims",
                f"{paper}: {claim.key}",
                claim.metrics,
                unit=claim.unit,
                what=claim.what,
                why=claim.why,
                source=None if claim.how == "measured" else "formula",
            )
    title = f"{paper}: the paper's numbers beside ours"
    card.show(card.table([claim.row(paper) for claim in claims], title))


# ---------------------------------------------------------------- the papers' lines


def paged(usage: dict) -> list[Claim]:
    """PagedAttention's Figures 2 and 13. usage: policy -> `paged_attention.Usage`."""
    full = "Ours waits for memory all the time, so hardly a block is free."
    held = paged_attention.FIGURE_2["paged"]["tokens"]
    share = "share of the cache that holds tokens, paged (Figure 2)"
    claims = [simulated("tokens_paged", share, held, 100 * usage["paged"].tokens, "%", full)]
    room = "The cache has room for seven times 2,048 tokens."
    fuller = "Theirs took 2 requests/s; ours waits for memory all the time, so it is fuller."
    for policy, why in (("max", room), ("paged", fuller)):
        what = f"requests in the batch, {NAMES[policy]} (Figure 13)"
        printed, ours = paged_attention.FIGURE_13[policy], usage[policy].mean_running
        claims.append(simulated(f"batch_{policy}", what, printed, ours, "", why))
    return claims


def headline(both) -> list[Claim]:
    """PagedAttention's abstract. both: what the engine did, `static_batching.Reserving`."""
    abstract = (
        "2 to 4 times the throughput of FasterTransformer and Orca, at equal latency (abstract)"
    )
    batch = "requests in a step, paged over reserved (Figure 13: 30.42 over 7.00)"
    figure = paged_attention.FIGURE_13
    gain = both.gain
    why = f"{wording.reserved(both)} Latency is neither held fixed nor looked at here."
    lengths = (
        "How many places are reserved for a request is chosen here (fewer, and less is gained), "
        "and towards the end few requests are left to share a step."
    )
    return [
        Claim("headline", abstract, None, gain.estimate, "x", why, span=gain.span),
        Claim("batch_x", batch, figure["paged"] / figure["max"], both.running_x, "x", lengths),
    ]


def flash(counted: list[dict]) -> list[Claim]:
    """FlashAttention: exactness, memory and theorem 2's exponents.

    counted: rows of `flash_attention.count_both_ways`: a start, twice its tokens, then also twice
    its fast memory, and any others.
    """
    longer = counted[1]
    moves = [row["tiles move"] for row in counted]
    differ = max(row["largest difference"] for row in counted)
    by_tokens, by_memory = (math.log2(moves[i + 1] / moves[i]) for i in (0, 1))
    exact = "largest difference from standard attention, float32 (exact, section 3)"
    memory = "numbers kept besides Q, K, V and O, tiled, for each token (theorem 1: a constant)"
    kept = longer["tiles keep"] / longer["tokens"]
    reads, last = "Reading Q, K, V.", "K and V are read once whatever M."
    return [
        Claim("exact", exact, None, differ, "", "Rounding."),
        simulated("memory", memory, None, kept, "", "A maximum and a sum."),
        simulated("tokens", "exponent of N, tiled (theorem 2)", 2, by_tokens, "", reads),
        simulated("memory_size", "exponent of M, tiled (theorem 2)", -1, by_memory, "", last),
    ]


def speculation_table(measured: list[dict]) -> list[dict]:
    """Runs of `speculation_on_record` as the notebook shows them, one line each."""
    return [
        {
            "run": run["label"],
            "k": run["gamma"],
            "drafts": run["drafts"],
            "tokens per step": round(run["mean_length"], 2),
            "a": round(run["alpha"], 2),
            "measured (x)": round(run["speedup"], 2),
            "its range": gain_ranges.in_words(run["gain"]),
            "decided": "yes" if run["gain"].decided else "no",
            "with free drafts (x)": round(speculative.speedup(run["alpha"], run["gamma"]), 2),
        }
        for run in measured
        if says_something(run)
    ]


def own_draft_cost(measured: list[dict], gamma: int) -> tuple[float, float, float] | None:
    """(low, middle, high) of the draft model's all-in c with `gamma` tokens.

    None without such a run, or without its range.
    """
    for run in measured:
        if run["label"] == f"draft model, k={gamma}" and says_something(run) and run["gain"].span:
            return speculative.draft_cost(run["gain"], run["alpha"], gamma)
    return None


UNKNOWN = Gain(1.0, 0.0, math.inf, 1)  # of a run without a speed-up
# With fewer drafts an acceptance rate, and a gain of the run that they sped up, mean nothing: at 30
# the rate is known to within 0.2.
LEAST_DRAFTS = 30


def says_something(run: dict) -> bool:
    """Whether a run of `speculation_on_record` has a speed-up, and drafts enough to explain it."""
    return bool(run["speedup"]) and run["drafts"] >= LEAST_DRAFTS


def speculation_on_record(store) -> list[dict]:
    """Speculative runs that notebook 2 saved.

    Rows: label, gamma, drafts, mean_length, alpha (equation 1 inverted), speedup or None, gain (the
    speed-up with its range). A run counts when its record has the mean length of a step and how
    many tokens were drafted each time.
    """
    runs = []
    for record in store.records():
        if not record["notebook"].startswith("02"):
            continue
        metrics = record["metrics"]
        config = (record.get("engine_args") or {}).get("speculative_config") or {}
        length = metrics.get("mean_acceptance_length")
        gamma = metrics.get("num_speculative_tokens") or config.get("num_speculative_tokens")
        if length and gamma and 1 <= length <= gamma + 1:
            runs.append({
                "label": record["variant"].replace("_", " "),
                "gamma": int(gamma),
                "drafts": int(metrics.get("drafts", 0)),
                "mean_length": float(length),
                "alpha": speculative.alpha_from_length(length, int(gamma)),
                "speedup": metrics.get("tpot_gain_x"),
                "gain": Gain.read(metrics, "tpot_gain_x") or UNKNOWN,
            })  # fmt: skip
    return runs


def speculation_elsewhere(gamma: int) -> tuple[dict[str, list[dict]], str]:
    """Runs on another machine whose acceptance was set by hand: a drafter's name -> its runs.

    Runs by rising alpha: alpha, speedup, gain, by output tokens/s. And where that was, in one line;
    ({}, "") without a record.
    """

    def point(row: dict) -> dict:
        alpha = speculative.alpha_from_length(row["mean_acceptance_length"], gamma)
        gain = Gain.read(row, "speedup_x")
        return {"alpha": alpha, "speedup": gain.estimate, "gain": gain}

    by_name, where = drafters_elsewhere("one stream", "mean_acceptance_length")
    return {name: [point(row) for row in rows] for name, rows in by_name.items()}, where


def chunks_on_record(store) -> tuple[list[dict], str]:
    """What notebook 2 measured with each token budget, the largest first; and where.

    Without such runs in this folder what was recorded on a GPU; "" when they are this folder's own.

    Rows: max_num_batched_tokens, itl_ms_max and itl_ms_p99 of the streams, ttft_long_ms_p50 of the
    long prompts, total_tokens_per_s.
    """
    records = store.records(experiment="chunked_prefill")
    rows = [r["metrics"] for r in records if r["notebook"].startswith("02")]
    where = ""
    if not rows:
        rows, where = recorded.curve("chunked_prefill")
    in_order = sorted(rows, key=lambda row: -row["max_num_batched_tokens"])
    return in_order, where


CHUNK_COLUMNS = {
    "max_num_batched_tokens": "token budget",
    "itl_ms_max": "longest gap in a stream (ms)",
    "itl_ms_p99": "p99 of the gaps (ms)",
    "ttft_long_ms_p50": "TTFT of the long prompts (ms)",
    "total_tokens_per_s": "tokens/s",
}


def chunk_table(rows: list[dict]) -> list[dict]:
    """Rows of `chunks_on_record` as the notebook shows them."""
    return [{title: row[name] for name, title in CHUNK_COLUMNS.items()} for row in rows]
