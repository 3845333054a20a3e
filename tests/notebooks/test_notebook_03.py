"""notebooks/03_reading_notes.ipynb: executed once as a student's headless run, then read."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from helpers.lessons.reading_notes.questions import make_quiz
from helpers.results.store import Results
from helpers.results.wording import kind_of
from tests.notebook_tools import SMALL, alt_texts, execute, texts

# The whole notebook is executed; on a busy machine it takes minutes instead of one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPO = Path(__file__).resolve().parents[2]
NOTEBOOK = REPO / "notebooks" / "03_reading_notes.ipynb"
STUDENT = "Ada Lovelace"
WORDS = (
    "Requests hold blocks of a few tokens instead of one long piece, "
    "so hardly anything is wasted and more fit."
)


# --- as it is committed


@pytest.fixture(scope="module")
def source():
    return nbformat.read(NOTEBOOK, 4)


def test_no_prediction_is_spoiled(source):
    """What a formula says comes in a later cell than the question."""
    code = [c.source for c in source.cells if c.cell_type == "code"]
    asked = [i for i, cell in enumerate(code) if "predict(" in cell]
    assert len(asked) == 8
    for i in asked:
        assert ".formula" not in code[i] and "reconcile(" not in code[i]
        assert any(".formula = " in later for later in code[i + 1 : i + 4])


def test_parameters_are_commented_constants_in_one_tagged_cell(source):
    (cell,) = [c for c in source.cells if "parameters" in c.metadata.get("tags", [])]
    lines = [line for line in cell.source.splitlines() if not line.startswith("#")]
    assert all(
        "=" in line and "#" in line and line.split("=")[0].strip().isupper() for line in lines
    ), lines
    assert {"PROFILE", "MODEL", "LOAD_FORMAT", "RESULTS_DIR", "SEED"} <= {
        line.split("=")[0].strip() for line in lines
    }


def test_sections_are_the_issues_and_every_paper_has_its_idea_in_ten_lines(source):
    text = [c.source for c in source.cells if c.cell_type == "markdown"]
    sections = [s for s in "\n".join(text).splitlines() if s.startswith("## ") and s[3].isdigit()]
    assert [s[3] for s in sections] == list("12345678")
    assert all("min)" in line for line in sections), "a section says how long it takes"
    guided = [t for t in text if "ten lines" in t and t.startswith("## ")]
    assert len(guided) == 5
    for note in guided:
        assert "uestion" in note and re.search(r"\*\*(The c|C)laims?\b", note)
        assert [
            line.split(".")[0] for line in note.splitlines() if line[:2].rstrip(".").isdigit()
        ] == [str(i) for i in range(1, 11)]


# --- executed


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook 03")
    questions = make_quiz(STUDENT)
    answers = {q.id: q.answer for q in questions if q.section == "1"} | {"idle": 3}
    parameters = SMALL["03_reading_notes"] | {
        "STUDENT": STUDENT, "QUIZ_ANSWERS": answers,
        "PREDICTIONS": {"paged_unfilled_percent": 20}, "NOTES": {"orca": WORDS},
        "PRICE_PER_HOUR": 3.0, "UTILISATION": 0.25,
    }  # fmt: skip
    notebook = execute("03_reading_notes", folder, parameters)
    return notebook, Results("03_reading_notes", folder / "results")


def all_text(notebook) -> str:
    return "\n".join(texts(c) for c in notebook.cells if c.cell_type == "code")


def test_every_prediction_is_reconciled(executed):
    _, store = executed
    records = store.records(experiment="prediction")
    assert len(records) == 8
    assert all(r["metrics"]["measured"] is not None for r in records)
    by_key = {r["variant"]: r for r in records}
    assert (
        by_key["paged_unfilled_percent"]["source"] == "parameter"
        and by_key["paged_unfilled_percent"]["metrics"]["predicted"] == 20
    )
    assert by_key["peak_blocks"]["source"] == "formula"


def test_only_measurements_are_called_so(executed):
    _, store = executed
    kinds = {r["variant"]: r["how"] for r in store.records(experiment="prediction")}
    assert kinds == {
        "paged_unfilled_percent": "simulated",
        "peak_blocks": "measured",
        "paged_over_reserved": "measured",
        "continuous_over_waves": "measured",
        "half_as_long_again": "measured",
        "fusion_gain": "measured",
        "traffic_growth": "simulated",
        "tokens_per_step": "simulated",
    }
    for record in store.records(experiment="prediction"):
        if record["how"] != "measured":
            assert "measure" not in record["residual"], record
    steps = store.get("prediction", "tokens_per_step")
    assert steps["metrics"]["measured"] == pytest.approx(steps["formula"], abs=0.1)
    assert steps["metrics"]["measured"] != steps["formula"], "no formula confirms itself"


def test_a_recorded_7b_is_priced_not_the_toy(executed):
    notebook, store = executed
    cost = store.get("cost", "per_million")
    assert (
        kind_of(cost) == "calculated"
        and "H100" in cost["throughput_from"]
        and "7B" in cost["throughput_from"]
    )
    assert cost["metrics"]["output_tokens_per_s"] < 50_000
    assert "recorded: NVIDIA H100" in all_text(notebook)


def test_the_papers_numbers_come_out(executed):
    _, store = executed
    claims = {r["variant"]: r["metrics"] for r in store.records(experiment="paper_claims")}
    assert claims["PagedAttention: tokens_paged"]["ours"] > 96
    growth = store.get("prediction", "traffic_growth")["metrics"]["measured"]
    assert growth == pytest.approx(2**2, abs=0.15), "theorem 2: with the square of the prompt"
    # Fitted to all three sizes of the fast memory; K and V are read once whatever it is.
    assert claims["FlashAttention: memory_size"]["ours"] == pytest.approx(-0.887, abs=0.005)


def test_the_real_engine_agrees_with_the_models(executed):
    _, store = executed
    blocks = store.get("blocks_in_use")["metrics"]
    assert blocks["agreeing_steps_share"] > 0.97
    peak = store.get("prediction", "peak_blocks")["metrics"]
    assert peak["measured"] == pytest.approx(peak["predicted"], abs=1)
    # Steps, not seconds: other programs on the machine must not fail this.
    shared = {w: store.get("reserving", w)["metrics"] for w in ("reserved", "paged")}
    shared = {way: numbers["requests_in_a_step"] for way, numbers in shared.items()}
    assert shared["paged"] > 1.5 * shared["reserved"], "more requests share a step"
    counted = store.get("prediction", "continuous_over_waves")["formula"]
    steps_x = store.get("continuous_batching", "continuous")["metrics"]["fewer_steps_x"]
    assert steps_x == pytest.approx(counted, rel=0.05) and steps_x > 1.2


def test_small_batches_wait_for_memory(executed):
    _, store = executed
    rows = {row["batch"]: row for row in store.get("small_products", "knee")["rows"]}
    # Eight rows cost far less than eight times one row.
    assert rows[8]["ms"] < 4 * rows[1]["ms"]
    assert rows[128]["tflop_per_s"] > 5 * rows[1]["tflop_per_s"]


def test_score_notes_and_checklist_reach_the_record(executed):
    notebook, store = executed
    score = store.get("self_check", "score")
    assert score["metrics"]["correct"] == 6 and score["metrics"]["answered"] == 7
    assert store.get("answer", "note_orca")["text"] == WORDS
    for item in ("paper", "docs_distributed"):
        assert store.get("checklist", item) is None, "only a person knows that it was read"
    assert "Reread: section 7 (Cost)" in all_text(notebook)


def test_the_score_and_the_notes_are_in_the_export(executed):
    from helpers.results import documents

    _, store = executed
    documents.export(store.directory)
    document = (store.directory / "my_learnings.md").read_text(encoding="utf-8")
    (line,) = [line for line in document.splitlines() if "Read the PagedAttention paper" in line]
    assert line.startswith("- [ ]"), "nobody has read anything in a run without a front end"
    appendix = (store.directory / "my_learnings_appendix.md").read_text(encoding="utf-8")
    assert f"- orca: {WORDS}" in appendix
    assert "- Self-check of notebook 3: 6 of 24 questions right" in document


def test_every_figure_has_a_text_for_those_who_do_not_see_it(executed):
    notebook, _ = executed
    pictures = alt_texts(notebook.cells)
    assert len(pictures) >= 7 and all(pictures)
    assert all_text(notebook).count("Show the values") >= len(pictures)


def test_no_warning_no_trace_and_small(executed):
    notebook, store = executed
    text = all_text(notebook)
    for word in ("Warning", "Traceback", "DEBUG", "nan", "not checked"):
        assert not re.search(rf"\b{word}\b", text), f"{word!r} is in the outputs"
    assert len(json.dumps(notebook)) < 1_500_000
    assert "no process left" in text
