"""Numbers that cannot be, and numbers that two students cannot both have measured.

A flag says what was found and what it was held against; what it means is for a person to judge.
Students who worked together may well share their measurements.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np

from helpers.display.numbers import number
from helpers.planning.hardware import PlanningError, get_gpu
from helpers.planning.models import SHIPPED, load_shape
from helpers.results.facts import NOT_RESULTS
from helpers.results.recorded import FOLDER as REFERENCE
from helpers.results.store import FILE_NAME, latest_of, load
from helpers.results.wording import all_numbers, finite, kind_of, metric, one_line

NOT_MEASURED = NOT_RESULTS | {"paper_claims"}  # typed, planned, or quoted from a paper
MOST = 12  # sentences that are shown of a student
QUANTITY = re.compile(r"(_m?s|_per_s|_gib|_bytes|_tokens|_requests|_x|_p\d+|_mean|_max)$")
SHARE = re.compile(r"(^|_)(acceptance_rate|hit_rate|hit_share|good_share|usage_max)$")
TIMES = re.compile(r"^(duration_s|startup_s|seconds|.*_ms(_p50|_mean|_max)?|.*_per_s)$")
STATISTICS = ("p50", "p90", "p99", "max")
ID = re.compile(r"[0-9a-f]{12}")
# A core multiplies at most 2048 bfloat16 numbers a cycle (Intel's AMX), and none has 6 GHz.
CORE_FLOPS = 2048 * 6e9
TINY_MODEL = 3e6  # parameters in its matrix products, rounded down
EQUAL_DIGITS = 8  # two clocks do not agree to so many
SAME_FACTOR = 2e-4
COMMON = 6  # measurements that must have the same factor


# ---------------------------------------------------------------- numbers that cannot be


def impossible(records: list[dict], problems: list[str]) -> list[str]:
    """A sentence for each number that no run can have given. problems: of the file's reading."""
    found = [problem for problem in problems if "finite number" in problem]
    made_by_hand = [r for r in records if not ID.fullmatch(str(r.get("id")))]
    if made_by_hand:
        first = one_line(f"{made_by_hand[0]['experiment']}, {made_by_hand[0]['variant']}", 80)
        found.append(f"{len(made_by_hand)} records have no id of the workbook's; first: {first}")
    for record in records:
        if _measured(record):
            name = one_line(f"{record['experiment']}, {record['variant']}".replace("_", " "), 80)
            numbers = {key: value for key, value in all_numbers(record).items() if value}
            for rule in (_out_of_range, _out_of_order, _does_not_multiply, _too_fast):
                found += [f"{name}: {said}" for said in rule(numbers, record)]
    found = list(dict.fromkeys(found))
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return found[:MOST] + more


def _measured(record: dict) -> bool:
    return kind_of(record) == "measured" and record["experiment"] not in NOT_MEASURED


def _out_of_range(numbers: dict[str, float], record: dict) -> Iterator[str]:
    for name, value in numbers.items():
        if value < 0 and QUANTITY.search(name):
            yield f"{metric(name, value)} is negative"
        if value > 1.0001 and SHARE.search(name):
            yield f"{name.replace('_', ' ')} {value:g} is more than all"


def _out_of_order(numbers: dict[str, float], record: dict) -> Iterator[str]:
    """A percentile is at least the one below it, and a request ends after its first token."""
    pairs = [
        (f"{time}_ms_{low}", f"{time}_ms_{high}")
        for time in ("ttft", "tpot", "itl", "e2e", "queue")
        for low, high in itertools.combinations(STATISTICS, 2)
    ]
    pairs += [(f"ttft_ms_{statistic}", f"e2e_ms_{statistic}") for statistic in STATISTICS]
    for low, high in pairs:
        if {low, high} <= numbers.keys() and numbers[low] > numbers[high]:
            yield f"{low} is above {high}"


def _does_not_multiply(numbers: dict[str, float], record: dict) -> Iterator[str]:
    """What was done in a second, times the seconds, is what was done."""
    for rate, count in (("output_tokens_per_s", "output_tokens"), ("requests_per_s", "requests")):
        if {rate, count, "duration_s"} <= numbers.keys():
            product = numbers[rate] * numbers["duration_s"]
            if abs(product - numbers[count]) > 0.02 * abs(numbers[count]):
                there = f"{metric(rate, numbers[rate])} over {number(numbers['duration_s'])} s"
                yield f"{there} are {number(product)}, not {number(numbers[count])}"


def _too_fast(numbers: dict[str, float], record: dict) -> Iterator[str]:
    """Two operations a parameter and token; without speculation, all weights read each step."""
    machine = _machine(record.get("provenance") or {})
    if machine is None:
        return
    where, most, step_ms = machine
    for name in ("output_tokens_per_s", "plain_tokens_per_s"):
        if numbers.get(name, 0) > most:
            yield f"{metric(name, numbers[name])}; {where} cannot compute more than {number(most)}"
    speculates = (record.get("engine_args") or {}).get("speculative_config")
    for name in ("tpot_ms_p50", "tpot_ms_mean") if not speculates else ():
        if name in numbers and numbers[name] < step_ms:
            least = f"{where} needs {step_ms:.3g} ms to read the weights once"
            yield f"{metric(name, numbers[name])}; {least}"


def _machine(place: dict) -> tuple[str, float, float] | None:
    """(machine and model in words, tokens/s that it cannot exceed, ms of the fastest step).

    From the planner's catalogue; None for a machine or a model that it has no data for.
    """
    model, gpu = str(place.get("model") or ""), str(place.get("gpu") or "")
    short = {full.split("/")[-1]: name for name, full in SHIPPED.items()}.get(model)
    if short is None and not model.startswith("tiny "):
        return None
    parameters, weight_bytes = TINY_MODEL, 0.0
    if short:
        shape = load_shape(short)
        if shape.experts:  # which of them a step reads depends on its tokens
            return None
        parameters = shape.parameters() - (0 if shape.tied else shape.vocab * shape.hidden)
        weight_bytes = parameters * shape.dtype_bytes
    if not gpu:
        cores = finite(place.get("cores")) or 1024
        return f"{cores:g} CPU cores with {model}", cores * CORE_FLOPS / (2 * parameters), 0.0
    count = re.match(r"(\d+) x (.+)", gpu)
    number, name = (int(count[1]), count[2]) if count else (1, gpu)
    try:
        card = get_gpu(name)
    except PlanningError:
        return None
    flops = number * 1e12 * max(card.tflops_16bit, card.tflops_fp8 or 0, card.tflops_fp4 or 0)
    step_ms = weight_bytes / (number * card.bandwidth_gb_s * 1e9) * 1000
    return f"{one_line(gpu, 60)} with {model}", flops / (2 * parameters), step_ms


# ---------------------------------------------------------------- numbers of two students


def signature(records: list[dict]) -> dict[str, float]:
    """A time or a rate of each measurement, by its record and name, for comparing students."""
    found = {}
    for record in latest_of(records):
        for name, value in all_numbers(record).items() if _measured(record) else ():
            digits = re.sub(r"e.*|[-.]", "", repr(value)).strip("0")
            if value and TIMES.match(name) and len(digits) >= EQUAL_DIGITS:
                key = f"{record['experiment']}, {record['variant']}: {name}"
                found[one_line(key.replace("_", " "), 160)] = value
                break
    return found


def alike(students: list[dict]) -> dict[str, dict[str, str]]:
    """{slug: {who else has them: what they share}}; also with the run that ships with the workbook.

    students: as results.Student has them. Two runs never agree in the ids of their records, to the
    last digit of a clock, or in every number up to one factor.
    """
    named = [(s["slug"], s["name"], s["content"]) for s in students if s["content"].get("ids")]
    recorded = [(path, load(path)[0]) for path in sorted(REFERENCE.glob(f"*/{FILE_NAME}"))]
    for path, records in recorded:
        content = {"numbers": signature(records), "ids": [r["id"] for r in records if "id" in r]}
        named.append(("", f"the workbook's recorded run ({path.parent.name})", content))
    keys = sorted({key for _, _, content in named for key in content["numbers"]})
    rows = [[content["numbers"].get(key, np.nan) for key in keys] for _, _, content in named]
    table = np.array(rows).reshape(len(named), len(keys))
    ids = [set(content["ids"]) for _, _, content in named]
    found: dict[str, dict[str, str]] = {}
    for i, (slug, name, _) in enumerate(named):
        with np.errstate(all="ignore"):
            factors = table[i + 1 :] / table[i]
        for j, said in _like(factors, keys, ids[i], ids[i + 1 :]):
            other, other_name, _ = named[i + 1 + j]
            found.setdefault(slug, {})[other_name] = said
            found.setdefault(other, {})[name] = said
    found.pop("", None)
    return found


def _like(factors: np.ndarray, keys: list[str], mine: set, theirs: list[set]):
    """(row, what is shared) for each row of factors that is too like the student's own numbers."""
    ordered = np.sort(factors, axis=1)  # nan last
    common = np.isfinite(ordered).sum(axis=1)
    for j, count in enumerate(common):
        said = []
        if shared := mine & theirs[j]:
            said.append(f"{len(shared)} records with the same id")
        equal = np.flatnonzero(factors[j] == 1)
        if len(equal):
            what = f"{len(equal)} of {count} measurements equal to the last digit"
            said.append(f"{what}, such as {keys[equal[0]]}")
        elif count >= COMMON:
            factor = ordered[j, count // 2]
            near = int((np.abs(factors[j] / factor - 1) < SAME_FACTOR).sum())
            if near >= max(COMMON, 0.6 * count):
                said.append(f"{near} of {count} measurements in the same ratio, {factor:.4g}")
        if said:
            yield j, "; ".join(said)
