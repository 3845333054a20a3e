"""helpers/lessons/reading_notes/engine_args.py against the installed vLLM: its parser, its classes, a running engine."""

import pytest

from helpers.lessons.reading_notes import engine_args


@pytest.fixture(scope="module")
def rows():
    return engine_args.catalogue()


def test_the_catalogue_is_vllms_own_parser(rows):
    """Every option that vLLM's own parser accepts, with its default; nothing else."""
    from vllm import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False))
    options = {
        flag
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }
    assert {flag for row in rows for flag in row.flags} == options
    parsed = vars(parser.parse_args([]))
    for row in rows:
        if row.name in parsed and isinstance(row.default, (int, float, str, bool)):
            assert parsed[row.name] == row.default, row.name
    assert len({row.name for row in rows}) == len(rows) > 200


def test_help_types_and_groups_are_filled(rows):
    by_name = {row.name: row for row in rows}
    assert len([row for row in rows if row.help]) > 0.95 * len(rows)
    assert (
        "chunked" in by_name["enable_chunked_prefill"].help
        and by_name["enable_chunked_prefill"].type == "on / off"
    )
    assert by_name["kv_cache_dtype"].type == "one of" and "fp8" in by_name["kv_cache_dtype"].choices
    assert (
        by_name["tensor_parallel_size"].type == "int"
        and by_name["tensor_parallel_size"].group == "ParallelConfig"
    )
    assert by_name["max_num_seqs"].type == "int | None"
    assert not [row for row in rows if "lambda" in row.type or "<class" in row.type]


def test_asking_for_help_leaves_vllm_as_it_was(rows):
    from vllm.engine import arg_utils

    assert arg_utils.NEEDS_HELP is False


@pytest.mark.parametrize(
    ("text", "first"),
    [("enable prefix caching", "enable_prefix_caching"), ("--max-num-seqs", "max_num_seqs"), ("MAX_NUM_SEQS", "max_num_seqs"),
     ("gpu memory utilization", "gpu_memory_utilization")],
)  # fmt: skip
def test_search_finds_names_in_every_spelling(rows, text, first):
    assert engine_args.search(text, rows)[0].name == first


def test_search_narrows_and_gives_nothing_for_nonsense(rows):
    assert engine_args.search("", rows) == list(rows)
    assert {r.group for r in engine_args.search("size", rows, group="ParallelConfig")} == {
        "ParallelConfig"
    }
    assert engine_args.search("no such argument xyzzy", rows) == []


def test_the_fifteen_exist_and_are_explained(rows):
    assert len(engine_args.FIFTEEN) == 15
    lines = engine_args.explained()
    assert [line["argument"] for line in lines] == list(engine_args.FIFTEEN)
    assert all(len(line["what it does"]) > 20 for line in lines)


def test_then_and_now_holds_for_the_installed_version():
    rows = engine_args.then_and_now()
    assert len(rows) >= 15
    broken = [f"{r['topic']}: {r['seen']}" for r in rows if r["holds"] is False]
    assert not broken, broken
    assert {r["topic"] for r in rows if r["holds"] is None} == {
        "chunked prefill",
        "prefix caching",
        "KV-cache gauge",
    }


def test_a_check_that_fails_says_so_instead_of_passing(monkeypatch):
    """The table must be able to turn red: claim something false of this version."""
    wrong = (
        engine_args.Change("a", "", "", engine_args._rejects("EngineArgs", max_num_seqs=4)),
        engine_args.Change("b", "", "", engine_args._default("gpu_memory_utilization", 0.9)),
        engine_args.Change("c", "", "", engine_args._has_argument("swap_space")),
        engine_args.Change("d", "", "", engine_args._default("no_such_argument", 1)),
        engine_args.Change(
            "e", "", "", engine_args._module_gone("vllm.entrypoints", "vllm.entrypoints.openai")
        ),
    )
    monkeypatch.setattr(engine_args, "CHANGES", wrong)
    assert [row["holds"] for row in engine_args.then_and_now()] == [False] * 5


def test_the_table_escapes_what_help_texts_hold(rows):
    row = engine_args.EngineArgument("x", ("--x",), "G", "int", "<b>", None, "a <script> & more")
    text = engine_args.table_html([row])
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "25 of" in engine_args.table_html(list(rows))


def test_the_widget_searches_as_one_types_and_the_page_keeps_the_table(monkeypatch):
    from tests.lessons.reading_notes.test_quiz import Outputs

    notebook = Outputs(monkeypatch)
    engine_args.explorer(text="prefix caching")
    field, group = notebook.shown[0].children
    assert "enable_prefix_caching" in notebook.shown[1].html
    field.value = "tensor parallel size"
    assert (
        "--tensor-parallel-size" in notebook.shown[1].html
        and "enable_prefix_caching" not in notebook.shown[1].html
    )
    group.value = "CacheConfig"
    assert "0 of 0 arguments" in notebook.shown[1].html
    assert len(notebook.shown) == 2
