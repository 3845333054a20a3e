"""A student in JupyterLab: cells one by one, forms, the stop button, a new kernel, an export."""

import io
import json
import re
import shutil
import time

import pytest
from nbconvert import HTMLExporter
from PIL import Image

from helpers import REPO
from helpers.results import Results
from helpers.run import finish, jupyterlab, start_page

WIDGET = jupyterlab.WIDGET
HEAD = """\
from helpers.results import Results
from helpers.lessons import exercises
from helpers.display import live
import time
store = Results('01_review')"""
FORMS = [
    ("markdown", "# Forms"),
    HEAD,
    "guess = exercises.predict(store, 'kv', 'How many tokens fit?', 'tokens')",
    "exercises.ask(store, 'insight_1', 'What did you learn?')",
    "exercises.choose(store, 'pick', 'Which one?', ['chunked prefill', 'prefix caching'])",
    "exercises.tick(store, 'paper', 'Read the PagedAttention paper')",
    "guess.formula = 104832\nexercises.reconcile(store, guess, 100_000)",
]


def saved(server, wait_for=None, timeout=10):
    """The records on disk; waits until ``wait_for(records)`` is true."""
    path, end = server.results / "measurements.jsonl", time.time() + timeout
    while True:
        found = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        if wait_for is None or wait_for(found) or time.time() > end:
            return found
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def fresh_results(server):
    (server.results / "measurements.jsonl").unlink(missing_ok=True)


def draft(notebook):
    """What the browser keeps because no kernel has taken it."""
    return notebook.page.evaluate(
        "() => Object.entries(localStorage).filter(([k]) => k.startsWith('workbook '))"
        ".map(([, v]) => JSON.parse(v).value)"
    )


def test_forms_are_saved_as_typed_kept_in_the_file_and_restored(server, open_notebook):
    notebook = open_notebook("forms", FORMS)
    for index in range(1, 6):
        notebook.run(index)
    # By keyboard alone, once the first field has the focus.
    field = notebook.output(2).locator("input[type=text]")
    field.click()
    notebook.page.keyboard.type("98,000", delay=30)
    records = saved(server, lambda found: len(found) == 1)
    assert [(r["metrics"]["predicted"], r["source"]) for r in records] == [(98000.0, "student")]
    notebook.output(2).get_by_text("98,000 tokens (your prediction)").wait_for()
    assert field.evaluate("e => e === document.activeElement"), (
        "the answer's text changes without taking the focus"
    )
    area = notebook.output(3).locator("textarea")
    area.focus()
    before = area.bounding_box()["y"]
    notebook.page.keyboard.type("Batching shares the weights.\nReally" + "\n" * 30, delay=5)
    records = saved(server, lambda found: len(found) == 2)
    assert records[-1]["text"] == "Batching shares the weights.\nReally"
    assert records[-1]["source"] == "typed"
    assert area.bounding_box()["y"] == before, "the field stays where it is"
    notebook.output(4).locator("input[type=radio]").nth(0).focus()
    notebook.page.keyboard.press("ArrowDown")
    saved(server, lambda found: len(found) == 3)
    notebook.output(5).locator("input[type=checkbox]").focus()
    notebook.page.keyboard.press("Space")
    records = saved(server, lambda found: len(found) == 4)
    assert [r["variant"] for r in records] == ["kv", "insight_1", "pick", "paper"], records
    assert records[2]["text"] == "prefix caching" and records[3]["done"] is True
    notebook.run(6)
    notebook.output(6).get_by_text("Your prediction is within 2 %").wait_for()
    assert draft(notebook) == [], "what the kernel has is not kept twice"

    # What the file holds: the words, no widget.
    file = notebook.save()
    kinds = {
        kind
        for cell in file.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    }
    assert WIDGET not in kinds and "text/html" in kinds
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(file)
    assert "98,000 tokens (your prediction)" in page and "Batching shares the weights." in page
    assert "How many tokens fit?" in page
    assert notebook.output(2).locator("input[type=text]").count() == 1, (
        "saving leaves the forms of the open page"
    )

    # Reopened: what was asked and said, how to edit it, no error box.
    notebook.open()
    notebook.output(2).get_by_text("98,000 tokens").wait_for()
    notebook.output(2).get_by_text("Run this cell to edit again").wait_for()
    assert "Error displaying widget" not in notebook.panel.inner_text()

    # A new kernel: the forms come back with what was typed, and asking again saves nothing.
    notebook.restart()
    before = len(saved(server))
    for index in range(1, 6):
        notebook.run(index)
    assert notebook.output(2).locator("input[type=text]").input_value() == "98000"
    assert (
        notebook.output(3).locator("textarea").input_value()
        == "Batching shares the weights.\nReally"
    )
    assert notebook.output(4).locator("input[type=radio]").nth(1).is_checked()
    assert notebook.output(5).locator("input[type=checkbox]").is_checked()
    assert len(saved(server)) == before


WAIT = "import time; time.sleep(4)"


def test_nothing_typed_is_lost_by_a_busy_a_restarted_or_a_killed_kernel(server, open_notebook):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    notebook = open_notebook("lost", [HEAD, FORMS[3], WAIT, kill])
    area = notebook.output(1).locator("textarea")
    notebook.run(0)
    notebook.run(1)
    # Busy: the form says that the text waits, and it is saved when the kernel is free.
    notebook.run(2, wait=False)
    area.fill("typed while busy")
    notebook.output(1).get_by_text("Saved.").wait_for()
    assert saved(server)[-1]["text"] == "typed while busy"
    # Restarted, while busy: said at once; and the text is there after the cell has run again.
    notebook.wait_idle()
    notebook.run(2, wait=False)
    area.fill("typed before the restart")
    notebook.restart()
    area.fill("typed after the restart")
    notebook.output(1).get_by_text("kernel behind this form is gone").wait_for(timeout=10_000)
    assert draft(notebook) == ["typed after the restart"]
    notebook.run(0)
    notebook.run(1)
    saved(server, lambda found: found[-1]["text"] == "typed after the restart")
    notebook.output(1).get_by_text("Saved.").wait_for()
    # Killed, and the page reloaded before anything ran again.
    notebook.run(3, wait=False)
    notebook.output(1).get_by_text("kernel behind this form is gone").wait_for()
    area.fill("typed after the crash")
    notebook.open()
    notebook.run(0)
    notebook.run(1)
    records = saved(server, lambda found: found[-1]["text"] == "typed after the crash")
    assert records[-1]["text"] == "typed after the crash"
    assert area.input_value() == "typed after the crash"


def test_typing_then_running_the_next_cell_at_once_uses_what_was_typed(server, open_notebook):
    notebook = open_notebook("quick", [HEAD, FORMS[2], "exercises.reconcile(store, guess, 100)"])
    notebook.run(0)
    notebook.run(1)
    field = notebook.output(1).locator("input[type=text]")
    field.fill("80")
    notebook.run(2)
    notebook.output(2).get_by_text("Your prediction").wait_for()
    assert saved(server)[-1]["metrics"] == {"predicted": 80.0, "measured": 100.0, "ratio": 1.25}
    # By keyboard: Shift+Enter in the form goes on to the next cell, which the next one runs.
    field.click()
    field.fill("90")
    notebook.page.keyboard.press("Shift+Enter")
    saved(server, lambda found: found[-1]["metrics"]["predicted"] == 90.0)
    notebook.page.keyboard.press("Shift+Enter")
    notebook.output(2).get_by_text("typed after the outcome was shown").wait_for()


def test_what_cannot_be_read_is_said_beside_the_field(server, open_notebook):
    notebook = open_notebook("words", [HEAD, FORMS[2]])
    notebook.run(0)
    notebook.run(1)
    field = notebook.output(1).locator("input[type=text]")
    field.fill("a lot")
    verdict = notebook.page.get_by_text("cannot be read as one number")
    verdict.wait_for()
    field.press("End")
    field.press_sequentially("s")
    assert not verdict.is_visible(), "what was said belonged to the text before"
    assert saved(server) == [] and draft(notebook) == ["a lots"]
    verdict.wait_for()
    notebook.output(1).get_by_text("No prediction yet.").wait_for()
    assert "104,832" not in notebook.output(1).inner_text(), "the formula is not given away"


QUIZ = "from helpers.lessons.reading_notes import quiz\ncheck = quiz.take(store, 'Ada')"


def test_a_verdict_of_the_quiz_belongs_to_the_text_beside_it(server, open_notebook):
    notebook = open_notebook("quiz", [HEAD, QUIZ])
    notebook.run(0)
    notebook.run(1)
    form = notebook.output(1).locator(".workbook-form")
    field = form.locator("input[type=text]").first
    for wrong in ("12", "13"):
        assert form.get_by_role("button").count() == 0, "no solution before a second try"
        field.fill(wrong)
        notebook.page.keyboard.press("Enter")
        form.get_by_text("Hint:").wait_for()
    form.get_by_role("button").wait_for()
    field.press("End")
    field.press_sequentially("7")
    assert form.get_by_text("Hint:").count() == form.get_by_role("button").count() == 0
    assert saved(server)[-1]["answers"] == {"kv_per_token": "13"}, "half an answer is not judged"


SWEEP = """\
with live.Progress('a sweep', 60) as view:
    for i in range(60):
        time.sleep(0.05); view.update(i + 1, tokens_per_s=812.3)"""
PASSING = """\
for n in range(4):
    live.mention(f'workload {n}'); time.sleep(0.5)"""
DASHBOARD = """\
import itertools; count = itertools.count()
with live.dashboard(lambda: {'running': next(count), 'kv_cache_usage': 0.25}, hz=10):
    time.sleep(3)"""


def test_a_live_view_moves_and_leaves_one_static_line(open_notebook):
    notebook = open_notebook("moving", [HEAD, SWEEP, DASHBOARD, PASSING])
    notebook.run(0)
    # A run that leaves no line is named while it lasts.
    notebook.run(3, wait=False)
    notebook.output(3).get_by_text("workload 2 (measurement 3 of this cell)").wait_for()
    notebook.wait_idle()
    notebook.output(3).get_by_text("workload").wait_for(state="detached")
    notebook.run(1, wait=False)
    bar = notebook.output(1).locator(".jupyter-widgets").first
    bar.wait_for()
    first = bar.inner_text()
    moved = "([e, t]) => e.textContent !== t"
    notebook.page.wait_for_function(moved, arg=[bar.element_handle(), first], timeout=10_000)
    notebook.wait_idle()
    notebook.output(1).get_by_text("a sweep: 60 requests in 3.").wait_for()
    assert notebook.output(1).locator(".jupyter-widgets").count() == 0
    notebook.run(2, wait=False)
    notebook.output(2).locator(".jupyter-widgets").first.wait_for()
    notebook.wait_idle()
    notebook.output(2).locator(".jp-RenderedImage img").wait_for()
    assert notebook.output(2).locator(".jupyter-widgets").count() == 0
    file = notebook.save()
    outputs = [o for cell in file.cells for o in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert WIDGET not in kinds, kinds
    alts = [output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.data]
    assert "The server, live" in alts[0], alts


INTERRUPT = "[data-command='notebook:interrupt-kernel'], button[title*='Interrupt the kernel']"


def test_the_stop_button_ends_the_work_and_says_how_far_it_came(open_notebook):
    long = SWEEP.replace("60", "1000").replace("a sweep", "long")
    notebook = open_notebook("stop", [HEAD, long, "print('still', 'here')"])
    notebook.run(0)
    notebook.run(1, wait=False)
    notebook.output(1).locator(".jupyter-widgets").first.wait_for()
    notebook.page.locator(INTERRUPT).first.click()
    notebook.output(1).get_by_text("long: stopped after").wait_for()
    notebook.output(1).get_by_text("KeyboardInterrupt").first.wait_for()
    notebook.run(2)
    notebook.output(2).get_by_text("still here").wait_for()


def test_any_cell_run_first_names_the_cell_to_run(server, open_notebook):
    notebook = open_notebook("01_review", ["engine.info"])
    notebook.run(0)
    notebook.output(0).get_by_text(
        "`engine` is made in a cell that has not been run"
    ).first.wait_for()
    assert "Traceback" not in notebook.output(0).inner_text()


HINTS = """\
from helpers.lessons.exercises import hint
hint('First step', 'Second step', solution='The answer')"""


def test_hints_open_one_by_one(open_notebook):
    notebook = open_notebook("hints", [HINTS])
    notebook.run(0)
    out = notebook.output(0)
    assert not out.get_by_text("First step").is_visible()
    out.locator("summary").nth(0).click()
    assert out.get_by_text("First step").is_visible()
    assert not out.get_by_text("Second step").is_visible()
    out.locator("summary").nth(1).focus()
    notebook.page.keyboard.press("Enter")
    out.locator("summary").nth(2).click()
    assert out.get_by_text("The answer").is_visible()


PLOT = """\
from helpers.display import figures
fig, ax = figures.figure('Throughput grows with the batch')
ax.plot([1, 2, 4], [10, 19, 33], marker='o')
ax.set(xlabel='requests at a time', ylabel='output tokens/s')
rows = [{'batch': 1, 'tokens/s': 10.0}, {'batch': 4, 'tokens/s': 33.0}]
figures.show(fig, 'Four at a time give 3.3 times as much.', table=rows)
from helpers.display import card
from helpers.display.as_typed import in_html
typed = 'a <b>card</b> at $2 against $10'
card.show(card.Static(f'<div style="{card.CARD}" class="shown">{in_html(typed)}</div>', typed))
print('word ' * 60)"""
# The contrast of an element's text with what is behind it, as WCAG 2 counts it.
CONTRAST = """e => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => numbers(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = e;
  while (behind.parentElement && numbers(getComputedStyle(behind).backgroundColor)[3] === 0)
    behind = behind.parentElement;
  const [a, b] = [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_pictures_read_well_in_both_themes(open_notebook, theme):
    notebook = open_notebook("plot" + theme[-4:].strip().lower(), [PLOT])
    notebook.command("apputils:change-theme", theme=theme)
    notebook.run(0)
    image = notebook.output(0).locator(".jp-RenderedImage img")
    image.wait_for()
    alt = image.get_attribute("alt")
    assert alt.startswith("Throughput grows with the batch."), "its text for who does not see it"
    paper = Image.open(io.BytesIO(image.screenshot())).convert("L").getpixel((3, 3))
    assert (paper > 128) == theme.endswith("Light"), f"a picture on {paper} in {theme}"
    caption = notebook.output(0).get_by_text("Four at a time give")
    notebook.output(0).locator("summary").click()
    cell = notebook.output(0).locator("td", has_text="33")
    shown = notebook.output(0).locator(".shown")
    for part in (caption, cell, shown):
        part.wait_for()
        contrast = part.evaluate(CONTRAST)
        assert contrast > 4.5, f"{theme}: {part.inner_text()} has a contrast of {contrast:.1f}"
    assert notebook.output(0).locator("script").count() == 0
    assert shown.inner_text() == "a <b>card</b> at $2 against $10", "as typed, no formula"
    behind = shown.evaluate("e => getComputedStyle(e).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", behind)[:3])) > 3 * 128
    assert light == theme.endswith("Light"), f"a card on {behind} in {theme}"
    printed = notebook.output(0).locator("pre", has_text="word word")
    assert printed.evaluate("e => getComputedStyle(e).wordBreak") == "normal", "cut within words"


def test_the_start_page_is_shown_as_a_page(server, browser):
    page_file = start_page.write(server.results)
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.page(page_file.relative_to(server.root).as_posix()))
    page.locator(".jp-RenderedMarkdown h1", has_text="start here").wait_for(timeout=30_000)
    assert page.locator(".jp-RenderedMarkdown li", has_text="☑").count() == 0
    store = Results("01_review", server.results)
    start_page.progress(store)
    store.save("checklist", "paper", {}, done=True, source="student")
    ticked = page.locator(".jp-RenderedMarkdown li", has_text="☑ Read the PagedAttention paper")
    ticked.wait_for(timeout=15_000)  # nobody opened it again
    context.close()


def test_my_learnings_print_on_one_page(server, browser, tmp_path):
    shutil.copy(REPO / "notebooks/reference/h100/measurements.jsonl", tmp_path)
    store = Results("01_review", tmp_path)
    words = "What I would tell a colleague, in two or three lines of a page as people write them. "
    for key in ("key_challenge", "insight_1", "insight_2", "insight_3", "question_1", "question_2"):
        store.save("answer", key, {}, text=2 * words, source="typed")
    for key in ("review", "features", "reading", "planning", "server"):
        store.save("answer", f"issue_{key}", {}, text=words, source="typed")
    for n in (10, 20):
        about = {"source": "student", "question": words, "unit": "tokens"}
        store.save("prediction", f"p{n}", {"predicted": 1.0, "measured": n}, **about)
    finish.write(tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / finish.PAGE).as_uri())
    titles = page.locator("h1").all_inner_texts()
    assert len(titles) == 3 and "Appendix" in titles[1]
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) > 3
    page.evaluate("document.querySelectorAll('section + section').forEach(e => e.remove())")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) == 1
    page.close()


def test_strangers_get_nothing_without_the_token(server):
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/api/contents", timeout=10)
    assert refused.value.code == 403


OPEN = """\
from helpers import measure, workloads
from helpers.engine import close_engine, load_profile, open_engine
engine = open_engine(load_profile('cpu'))"""
LONG = "measure.run_workload(engine, workloads.uniform(engine.tokenizer, 400, 64, 512))"
SHORT = """\
four = workloads.uniform(engine.tokenizer, 4, 16, 8)
print('measured', len(measure.run_workload(engine, four, progress=False).requests))"""
CLOSE = "print(close_engine())"


@pytest.mark.timeout(600)
def test_stop_during_a_measurement_and_a_second_notebook(open_notebook):
    notebook = open_notebook("engine", [OPEN, LONG, SHORT, CLOSE])
    notebook.run(0, timeout=180)
    notebook.output(0).get_by_text("Engine started in").wait_for()
    notebook.run(1, wait=False)
    notebook.output(1).locator(".jupyter-widgets").first.wait_for()
    notebook.page.locator(INTERRUPT).first.click()
    notebook.output(1).get_by_text("EngineError").first.wait_for(timeout=60_000)
    said = notebook.output(1).inner_text()
    assert "ready for the next cell" in said or "closed" in said, (
        f"the message does not say what became of the engine: {said}"
    )
    notebook.run(2, timeout=120)
    if "closed" not in said:
        notebook.output(2).get_by_text("measured 4").wait_for()

    # The same machine, a second notebook: it is told of the first.
    second = open_notebook("second", [OPEN, CLOSE])
    second.run(0, timeout=180)
    second.output(0).get_by_text("engine.ipynb").first.wait_for()
    second.run(1, timeout=60)
    notebook.run(3, timeout=60)
    notebook.output(3).get_by_text("no process left").wait_for()
