"""What notebook 3 shows around a paper: its claims beside our numbers, and what counts as having read it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from helpers import REPO
from helpers.display import card
from helpers.display.numbers import number
from helpers.lessons.papers import cost, speculative

NOTE_WORDS = 15  # a note of the student's own that counts as evidence of reading
QUIZ_SHARE = 0.7  # of a section's questions


@dataclass(frozen=True)
class Claim:
    """One line of the table "the paper says / we get / why they differ".

    paper: the number as the paper prints it, or None for a claim in words (`what` says it).
    confirmed: False marks a number that could not be checked in the paper itself.
    how: where our number is from: "measured", or "calculated" from a formula or a simulated schedule.
    """

    key: str
    what: str
    paper: float | None
    ours: float | None
    unit: str
    why: str
    confirmed: bool = True
    how: str = "measured"

    @property
    def ratio(self) -> float | None:
        return self.ours / self.paper if self.paper and self.ours is not None else None


def show_claims(store, paper: str, claims: list[Claim]) -> None:
    """Show the table; save every line that has our number: "paper_claims", variant "paper: key"."""
    rows = []
    for c in claims:
        theirs = "in words" if c.paper is None else _with_unit(c.paper, c.unit)
        ours = "not measured here" if c.ours is None else _with_unit(c.ours, c.unit)
        rows.append(
            {
                "claim": c.what,
                f"{paper} says": theirs + ("" if c.confirmed else " (not confirmed)"),
                "we get": ours
                + (f" ({c.how})" if c.ours is not None and c.how != "measured" else ""),
                "ours / theirs": "" if c.ratio is None else f"{c.ratio:.2f}",
                "why they differ": c.why,
            }
        )
        if c.ours is not None:
            metrics = {"ours": c.ours} | (
                {} if c.paper is None else {"paper": c.paper, "ratio": c.ratio}
            )
            store.save(
                "paper_claims",
                f"{paper}: {c.key}",
                metrics,
                unit=c.unit,
                what=c.what,
                why=c.why,
                source=None if c.how == "measured" else "formula",
            )
    card.show(card.table(rows, f"{paper}: the paper's numbers beside ours"))


def _with_unit(value: float, unit: str) -> str:
    return f"{number(float(value), trim=True)} {unit}".strip()


def show_table(rows: list[dict], title: str = "") -> None:
    """A list of dicts as a plain table; None becomes empty."""
    card.show(card.table(rows, title))


def evidence_of_reading(note, score, section: str, what: str) -> str | None:
    """One sentence when the student's own work shows that `what` was read, else None.

    note: the answer of `exercises.ask`. score: of the self-check.
    """
    right, asked = score.of_section(section)
    if asked and right >= QUIZ_SHARE * asked:
        return f"{right} of {asked} questions on {what} right"
    words = len(note.text.split())
    if note.source in ("typed", "parameter") and words >= NOTE_WORDS:
        return f"own notes on {what}, {words} words"
    return None


def recorded_ceilings() -> dict:
    """What helpers.lessons.reading_notes.machine_limits measured on an H100: limits, products, fusion, attention, link, with provenance."""
    return json.loads(
        (REPO / "notebooks" / "reference" / "ceilings_h100.json").read_text(encoding="utf-8")
    )


def throughput_on_record(store) -> tuple[float, str] | None:
    """Output tokens/s to price, and where it comes from: the best of notebook 1, else its baseline, else ours."""
    for experiment, variant, label in (
        ("optimised", "best", "notebook 1, best configuration"),
        ("baseline", "one_at_a_time", "notebook 1, one request at a time"),
        ("continuous_batching", "continuous", "section 2 of this notebook"),
    ):
        record = store.get(experiment, variant)
        if record and (value := record["metrics"].get("output_tokens_per_s")):
            return float(value), label
    return None


def speculation_on_record(store) -> list[dict]:
    """Speculative runs that notebook 2 saved: label, gamma, mean_length, alpha (equation 1 inverted), speedup or None.

    A run counts when its record has the mean length of a step and how many tokens were drafted.
    """
    runs = []
    for record in store.records():
        metrics = record["metrics"]
        config = (record.get("engine_args") or {}).get("speculative_config") or {}
        length = metrics.get("mean_acceptance_length")
        gamma = metrics.get("num_speculative_tokens") or config.get("num_speculative_tokens")
        if (
            not record["notebook"].startswith("02")
            or not length
            or not gamma
            or not 1 <= length <= gamma + 1
        ):
            continue
        runs.append(
            {"label": record["variant"].replace("_", " "), "gamma": int(gamma), "mean_length": float(length),
             "alpha": speculative.alpha_from_length(length, int(gamma)), "speedup": metrics.get("speedup_x")}
        )  # fmt: skip
    return runs


# What the reading list's reports talk about, as changes to the inputs.
WHAT_IF = {
    "busy twice the hours": lambda i: {"utilisation": min(1.0, i.utilisation * 2)},
    "half the price (spot, reserved)": lambda i: {"price_per_hour": i.price_per_hour / 2},
    "1.5 times the tokens/s (tuning)": lambda i: {"tokens_per_s": i.tokens_per_s * 1.5},
    "busy half the hours": lambda i: {"utilisation": i.utilisation / 2},
    "30 % on top (storage, network, people)": lambda i: {"overhead": i.overhead + 0.3},
}


def cost_rows(inputs: cost.CostInputs) -> list[dict]:
    """The price per million tokens as it is and after each change, cheapest first."""
    return cost.what_changes_it(inputs, {name: change(inputs) for name, change in WHAT_IF.items()})


def cost_form(store, inputs: cost.CostInputs, source: str, draw) -> None:
    """Price, utilisation and overhead to play with; `draw(inputs)` returns the picture. Saved as experiment "cost".

    Without widgets it draws and saves once, with the notebook's parameters. With them the picture is an
    output of its own below the form, so that a saved notebook keeps the last one.
    """

    def save(chosen: cost.CostInputs, by: str) -> None:
        month = cost.monthly(chosen)
        store.save(
            "cost", "per_million",
            {"cost_per_million_tokens": cost.cost_per_million(chosen), "price_per_hour": chosen.price_per_hour,
             "utilisation": chosen.utilisation, "overhead": chosen.overhead, "output_tokens_per_s": chosen.tokens_per_s,
             "million_tokens_per_month": month["million_tokens"]},
            throughput_from=source, price_from=by,
        )  # fmt: skip

    save(inputs, "parameter")
    if not card.has_widgets():
        card.show(draw(inputs))
        return
    import ipywidgets as w
    from IPython.display import display

    wide = w.Layout(width="420px", max_width="98%")
    names = {"description_width": "170px"}
    price = w.BoundedFloatText(
        value=inputs.price_per_hour,
        min=0,
        max=1e6,
        step=0.1,
        description="price per hour",
        style=names,
        layout=wide,
    )
    busy = w.FloatSlider(
        value=inputs.utilisation,
        min=0.01,
        max=1,
        step=0.01,
        description="share of hours busy",
        style=names,
        layout=wide,
    )
    extra = w.BoundedFloatText(
        value=inputs.overhead,
        min=0,
        max=10,
        step=0.05,
        description="on top, as a share",
        style=names,
        layout=wide,
    )
    display(w.VBox([price, busy, extra]))
    place = card.Place()
    place.put(draw(inputs))

    def changed(_) -> None:
        chosen = cost.CostInputs(
            price.value, inputs.tokens_per_s, busy.value, extra.value, inputs.machines
        )
        place.put(draw(chosen))
        save(chosen, "typed")

    for control in (price, busy, extra):
        control.continuous_update = False
        control.observe(changed, "value")
