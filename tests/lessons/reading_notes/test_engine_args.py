"""helpers/lessons/reading_notes/engine_args.py against the parser of the installed vLLM."""

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
    actions = parser._actions  # noqa: SLF001 (argparse lists them nowhere else)
    options = {flag for action in actions for flag in action.option_strings}
    flags = {flag for row in rows for flag in row.flags}
    assert flags == {flag for flag in options if flag.startswith("--")}
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
    [
        ("enable prefix caching", "enable_prefix_caching"),
        ("--max-num-seqs", "max_num_seqs"),
        ("MAX_NUM_SEQS", "max_num_seqs"),
        ("gpu memory utilization", "gpu_memory_utilization"),
    ],
)
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


def test_a_share_that_vllm_leaves_alone_is_not_said_to_be_used(monkeypatch):
    for size, said in ((2**28, "0.92, not used"), (None, "0.92")):
        values = {"gpu_memory_utilization": 0.92, "kv_cache_memory_bytes": size}
        monkeypatch.setattr(engine_args, "in_use", lambda _, name, __, v=values: v.get(name))
        lines = {line["argument"]: line for line in engine_args.explained("an engine")}
        assert lines["gpu_memory_utilization"]["in this engine"] == said


def test_a_hit_shows_one_sentence_and_not_the_page_that_some_help_texts_are(rows):
    by_name = {row.name: row for row in rows}
    said = by_name["max_num_queued_reqs"].first_sentence
    assert said.startswith("Maximum number of requests") and said.endswith("None for no limit")
    said = by_name["max_num_active_seqs"].first_sentence
    assert said.endswith("admits into RUNNING"), "the second begins with a name in backticks"
    assert all(0 < len(row.first_sentence) <= 140 for row in rows if row.help)
    for row in rows:
        shown, words = (
            row.first_sentence.split(" ...")[0].split(),
            row.help.replace("`", "").split(),
        )
        whole = [word.rstrip(".:") for word in words[: len(shown)]]
        assert [word.rstrip(".:") for word in shown] == whole, "a word is cut"


def test_the_table_escapes_what_help_texts_hold(rows):
    row = engine_args.EngineArgument("x", ("--x",), "G", "int", "<b>", None, "a <script> & more")
    page = engine_args.hits_table([row]).html
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "25 of" in engine_args.hits_table(list(rows)).text


def test_the_widget_searches_as_one_types_and_the_page_keeps_the_table(monkeypatch):
    from tests.notebook_tools import Outputs

    notebook = Outputs(monkeypatch)
    engine_args.explorer("prefix caching")
    field, group = notebook.shown[0].children
    assert group.index == 0, "the front end shows the option of this number"
    assert "enable_prefix_caching" in notebook.shown[1].html
    field.value = "tensor parallel size"
    assert (
        "--tensor-parallel-size" in notebook.shown[1].html
        and "enable_prefix_caching" not in notebook.shown[1].html
    )
    group.value = "CacheConfig"
    assert "0 of 0 arguments" in notebook.shown[1].html
    group.index = 0
    assert "--tensor-parallel-size" in notebook.shown[1].html and group.index == 0
    assert len(notebook.shown) == 2
