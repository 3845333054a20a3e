"""Notebook 3's tables "the paper says / we get / why they differ", from what it has computed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

from helpers.display import card
from helpers.display.numbers import number
from helpers.lessons.papers import (
    deepspeed_inference,
    flash_attention,
    paged_attention,
    scheduling,
    speculative,
)
from helpers.lessons.reading_notes import wording


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    key: the line's name in the results. paper: the number as the paper prints it, or None for a
    claim in words (`what` says it). ours: None when it is not rebuilt here. how: where our number
    is from: "measured", or "calculated" from a formula or a simulated schedule.
    """

    key: str
    what: str
    paper: float | None
    ours: float | None
    unit: str
    why: str
    how: str = "measured"

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
            said = f"{number(float(self.paper))} {self.unit}".strip()
        if self.ours is not None:
            got = f"{number(float(self.ours))} {self.unit}".strip()
            got += "" if self.how == "measured" else f" ({self.how})"
            ratio = f"{self.metrics['ratio']:.2f}" if self.paper else ""
        return {
            "claim": self.what,
            f"{paper} says": said,
            "we get": got,
            "ours / theirs": ratio,
            "why they differ": self.why,
        }


calculated = partial(Claim, how="calculated")


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


def paged(slots: dict[str, int], usage: dict) -> list[Claim]:
    """PagedAttention. slots: model -> our slots. usage: policy -> `paged_attention.Usage`."""
    table = paged_attention.TABLE_1
    row = table["OPT-13B"]
    kib = paged_attention.kv_bytes_per_token(row["layers"], row["hidden"]) / 1024
    what = "KV cache of one token, OPT-13B (section 3)"
    claims = [calculated("opt13b_kib", what, 800, kib, "KiB", "Counted, not measured.")]
    why = "The paper's GB are rounded to whole ones."
    for name, ours in slots.items():
        what = f"slots, {name} (Table 1)"
        claims.append(calculated(f"slots_{name}", what, table[name]["slots"], ours, "tokens", why))
    drawn = "Lengths drawn, not the trace's."
    for policy, printed in paged_attention.FIGURE_2.items():
        what = f"share that holds tokens, {policy} (Figure 2)"
        ours, why = 100 * usage[policy].tokens, f"{drawn} Our queue is never empty."
        claims.append(calculated(f"tokens_{policy}", what, printed["tokens"], ours, "%", why))
    fuller = "Theirs took 2 requests/s; ours waits for memory all the time, so it is fuller."
    for policy, printed in paged_attention.FIGURE_13.items():
        what = f"requests in the batch, {policy} (Figure 13)"
        ours, why = usage[policy].mean_running, fuller if policy == "paged" else drawn
        claims.append(calculated(f"batch_{policy}", what, printed, ours, "", why))
    return claims


def headline(both) -> list[Claim]:
    """PagedAttention's abstract. both: what the engine did, `static_batching.Reserving`."""
    abstract = (
        "2 to 4 times the throughput of FasterTransformer and Orca, at equal latency (abstract)"
    )
    batch = "requests in a step, paged over reserved (Figure 13: 30.42 over 7.00)"
    figure = paged_attention.FIGURE_13
    lengths = "It depends on how much longer the longest request is than the usual one."
    return [
        Claim("headline", abstract, None, both.gain.estimate, "x", wording.reserved(both)),
        Claim("batch_x", batch, figure["paged"] / figure["max"], both.running_x, "x", lengths),
    ]


def sharing(rows: list[dict]) -> list[Claim]:
    """PagedAttention's Figure 15. rows: kind, width, printed, saved_percent."""
    why = {
        "parallel": "Lengths drawn, not the trace's.",
        "beam": "Parents at random at every step: an upper end.",
    }
    return [
        calculated(
            f"{r['kind']}_{r['width']}",
            f"blocks saved, {r['kind']}, {r['width']} sequences (Figure 15)",
            r["printed"],
            r["saved_percent"],
            "%",
            why[r["kind"]],
        )
        for r in rows
    ]


def orca(
    simulated: dict[str, int], calibrated_x: float, waves, plans_ahead: bool = False
) -> list[Claim]:
    """Orca. simulated: steps by policy ("static", "iteration").

    calibrated_x: ratio of times with the engine's own step times. waves: what the engine did,
    `static_batching.Waves`. plans_ahead: `static_batching.plans_ahead` of this engine.
    """
    simulated_x = simulated["static"] / simulated["iteration"]
    refills = wording.refills(waves.continuous_steps, simulated["iteration"], plans_ahead)
    whole_system = "A whole system and a 175B model on many GPUs: not rebuilt here."
    programs = f"In seconds: {waves.gain.sentence()}. Prompts and scheduling take time, too."
    what = (
        "throughput over FasterTransformer at the same latency (abstract)",
        "continuous over waves, steps that cost the same (simulated)",
        "the same with this engine's step times (simulated)",
        "the same on the real engine, in steps",
        "the same on the real engine, in time",
    )
    mechanism = "The mechanism alone: places left empty."
    return [
        Claim("throughput", what[0], scheduling.ORCA_THROUGHPUT_X, None, "x", whole_system),
        calculated("simulated", what[1], None, simulated_x, "x", mechanism),
        calculated(
            "calibrated", what[2], None, calibrated_x, "x", wording.step_cost(waves.step_ms)
        ),
        Claim("steps", what[3], None, waves.steps_x, "x", refills),
        Claim("measured", what[4], None, waves.gain.estimate, "x", programs),
    ]


def flash(
    difference: float, slope_standard: float, slope_sram: float, extra_per_token: float
) -> list[Claim]:
    """FlashAttention: exactness, theorem 2's exponents, memory, both versions of Figure 2."""
    gb, printed = flash_attention.caption_traffic_gb(), flash_attention.FIGURE_2
    small = flash_attention.caption_traffic_gb(100 * 1024)["flash"]
    arxiv, masked = (printed[edition]["standard"] for edition in ("arXiv", "masked"))

    def passes(theirs: float) -> str:
        return f"{(theirs - gb['standard']) / gb['one_pass']:.0f}"

    exact = "largest difference to standard attention, float32 (exact, section 3)"
    memory = "extra numbers per token, tiled (theorem 1: a constant)"
    moved = "GB moved, standard, forward and backward (Figure 2, arXiv version)"
    tiled = "GB moved, tiled, forward and backward (Figure 2, both versions)"
    masks = (
        f"Counted without mask and dropout. A pass over N x N is {gb['one_pass']:.1f} GB: "
        f"theirs has {passes(arxiv)} more."
    )
    versions = f"{passes(masked)} passes more. Two editions, two numbers: say which you quote."
    sram = f"For the 192 KiB of one A100 multiprocessor; with 100 KiB it would be {small:.1f} GB."
    short = "N d is not yet negligible at 1,024 tokens."
    last = "The last tile is not full; K and V are read once whatever M."
    return [
        Claim("exact", exact, None, difference, "", "Rounding."),
        calculated(
            "slope_standard", "exponent of N, standard (theorem 2)", 2, slope_standard, "", short
        ),
        calculated("slope_sram", "exponent of M, tiled (theorem 2)", -1, slope_sram, "", last),
        calculated("memory", memory, None, extra_per_token, "", "l and m."),
        calculated("hbm_arxiv", moved, arxiv, gb["standard"], "GB", masks),
        calculated(
            "hbm_later",
            "the same in the other version of Figure 2 (key-padding mask, no dropout)",
            masked,
            gb["standard"],
            "GB",
            versions,
        ),
        calculated("hbm_flash", tiled, printed["arXiv"]["flash"], gb["flash"], "GB", sram),
    ]


def deepspeed(
    bandwidth_share: float, fusion_x: float, crossover: int, measured_on: str
) -> list[Claim]:
    """DeepSpeed Inference: both abstracts, and its mechanisms as measured here."""
    arxiv, sc22 = (deepspeed_inference.ABSTRACTS[version] for version in ("arXiv", "SC22"))
    others = "Against other systems on many GPUs: not rebuilt here."
    cite = "The same sentence, another number: say which you cite."
    row = "one row: share of the memory ceiling (section III: small batches wait for memory)"
    fused = "fused over apart, eight operations (section III: Deep-Fusion)"
    link = "tokens per step that hide the link (section VI: ZeRO-Inference)"
    kernel = "torch's kernel on this machine."
    return [
        Claim(
            "latency_arxiv",
            "latency, up to (arXiv abstract)",
            arxiv["latency_x"],
            None,
            "x",
            others,
        ),
        Claim("latency_sc22", "latency (SC22 abstract)", sc22["latency_x"], None, "x", cite),
        Claim(
            "throughput",
            "throughput, over (both abstracts)",
            arxiv["throughput_x"],
            None,
            "x",
            "Not rebuilt here.",
        ),
        Claim("bandwidth", row, None, 100 * bandwidth_share, "%", kernel),
        Claim("fusion", fused, None, fusion_x, "x", "Their fusion also spans products."),
        calculated("crossover", link, None, crossover, "tokens", measured_on),
    ]


def leviathan() -> list[Claim]:
    """Speculative decoding: Table 1 in one line, and what the authors measured (Table 2)."""
    off = max(
        abs(round(speculative.speedup(alpha, gamma), 2) - speed)
        for (alpha, gamma), (_, speed) in speculative.TABLE_1.items()
    )
    what = "Table 1: largest difference of its six speeds from the formula"
    claims = [calculated("table_1", what, None, off, "x", "They are the formula's.")]
    keys = ("t5", "t5_cnndm", "t5_cnndm_t1")
    for key, (task, row) in zip(keys, speculative.TABLE_2.items(), strict=True):
        ours = speculative.speedup(row["alpha"], row["gamma"], 0.02)
        rates = f"alpha {row['alpha']}, gamma {row['gamma']} (Table 2, measured by the authors)"
        what, why = f"T5-XXL, {task}: {rates}", wording.table_2(**row)
        claims.append(calculated(key, what, row["speed"], ours, "x", why))
    return claims


def speculation_table(measured: list[dict]) -> list[dict]:
    """Runs of `speculation_on_record` as the notebook shows them, one line each."""
    return [
        {
            "run": run["label"],
            "k": run["gamma"],
            "drafts": run["drafts"],
            "tokens per step": round(run["mean_length"], 2),
            "alpha": round(run["alpha"], 2),
            "measured (x)": round(run["speedup"], 2),
            "with free drafts (x)": round(speculative.speedup(run["alpha"], run["gamma"]), 2),
        }
        for run in measured
        if says_something(run)
    ]


def own_draft_cost(measured: list[dict], gamma: int) -> float | None:
    """The c that explains the draft model's runs with `gamma` tokens; None without such a run.

    0 where a run was faster than free drafts could make it.
    """
    costs = [
        speculative.draft_cost(run["speedup"], run["alpha"], gamma)
        for run in measured
        if says_something(run) and run["gamma"] == gamma and run["label"].startswith("draft model")
    ]
    return max(0.0, statistics.median(costs)) if costs else None


# With fewer drafts an acceptance rate, and a gain of the run that they sped up, mean nothing: at 30
# the rate is known to within 0.2.
LEAST_DRAFTS = 30


def says_something(run: dict) -> bool:
    """Whether a run of `speculation_on_record` has a speed-up, and drafts enough to explain it."""
    return bool(run["speedup"]) and run["drafts"] >= LEAST_DRAFTS


def speculation_on_record(store) -> list[dict]:
    """Speculative runs that notebook 2 saved.

    Rows: label, gamma, drafts, mean_length, alpha (equation 1 inverted), speedup or None. A run
    counts when its record has the mean length of a step and how many tokens were drafted each time.
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
                "speedup": metrics.get("speedup_x"),
            })  # fmt: skip
    return runs
