"""The self-check of notebook 3: questions whose numbers come from the student's name.

    questions = make_quiz("Ada Lovelace")
    grade(questions, {"kv_per_token": 800})      # pure: what is right, why, and what to reread
    take(store, questions)                        # the form; saved as it is answered, restored next time

Two students get different numbers, the same student always the same ones. Answers are computed with
`helpers.lessons.papers`, the code that the notebook has already checked against the papers.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

from helpers.display import card
from helpers.display.numbers import number, read_number
from helpers.lessons.papers import (
    cost,
    deepspeed_inference,
    paged_attention,
    scheduling,
    speculative,
)

SECTIONS = {
    "1": "PagedAttention",
    "2": "Continuous batching",
    "3": "FlashAttention",
    "4": "DeepSpeed Inference",
    "5": "Sarathi-Serve and speculation",
    "6": "vLLM's documentation",
    "7": "Cost",
}


@dataclass(frozen=True)
class Question:
    """One question. A number is right within `tolerance` (relative), a choice when it is the very one."""

    id: str
    section: str  # of the notebook, a key of SECTIONS
    text: str
    answer: float | str
    why: str  # shown after the answer, right or wrong
    unit: str = ""
    choices: tuple[str, ...] = ()
    tolerance: float = 0.02


@dataclass(frozen=True)
class Verdict:
    """How one answer did; `correct` is None while nobody has answered (or nothing could be read)."""

    question: Question
    given: object
    correct: bool | None
    sentence: str


@dataclass(frozen=True)
class Score:
    verdicts: tuple[Verdict, ...]

    @property
    def correct(self) -> int:
        return sum(v.correct is True for v in self.verdicts)

    @property
    def answered(self) -> int:
        return sum(v.correct is not None for v in self.verdicts)

    @property
    def questions(self) -> int:
        return len(self.verdicts)

    def of_section(self, section: str) -> tuple[int, int]:
        """(right, asked) in one section."""
        mine = [v for v in self.verdicts if v.question.section == section]
        return sum(v.correct is True for v in mine), len(mine)

    @property
    def reread(self) -> list[str]:
        """Sections with a wrong answer, most wrong answers first."""
        wrong = [v.question.section for v in self.verdicts if v.correct is False]
        return sorted(set(wrong), key=lambda s: (-wrong.count(s), s))

    def __str__(self) -> str:
        if not self.answered:
            return f"{self.questions} questions, none answered yet."
        text = f"{self.correct} of {self.questions} right ({self.answered} answered)."
        if self.reread:
            text += (
                " Reread: " + ", ".join(f"section {s} ({SECTIONS[s]})" for s in self.reread) + "."
            )
        return text


def seed_of(name: str) -> int:
    """The quiz's seed for a student: the same for "Ada  Lovelace" and "ada lovelace"."""
    return int(hashlib.sha256(" ".join(name.lower().split()).encode()).hexdigest()[:12], 16)


def make_quiz(name: str = "") -> list[Question]:
    """The questions with this student's numbers."""
    rng = random.Random(seed_of(name))
    questions: list[Question] = []

    def ask(id_, section, text, answer, why, **more):
        questions.append(Question(id_, section, text, answer, why, **more))

    def choose(id_, section, text, right, others, why):
        options = [right, *others]
        rng.shuffle(options)
        ask(id_, section, text, right, why, choices=tuple(options))

    _paged(rng, ask, choose)
    _batching(rng, ask, choose)
    _flash(rng, ask, choose)
    _deepspeed(rng, ask, choose)
    _steps(rng, ask, choose)
    _docs(rng, ask, choose)
    _cost(rng, ask)
    return questions


def _paged(rng, ask, choose):
    layers, heads = rng.choice([24, 32, 40, 48]), rng.choice([2, 4, 8])
    per_token = paged_attention.kv_bytes_per_token(layers, heads * 128)
    ask(
        "kv_per_token",
        "1",
        f"A model has {layers} layers and {heads} KV heads of size 128, in bfloat16. How many KiB does one token keep in "
        "the KV cache?",
        per_token / 1024,
        f"2 (key and value) x {layers} layers x {heads} x 128 numbers x 2 bytes = {per_token:,} bytes.",
        unit="KiB",
    )
    pool = rng.choice([8, 12, 20, 40])
    ask(
        "slots",
        "1",
        f"The KV cache of that model gets {pool} GiB. How many tokens fit?",
        paged_attention.slots(pool * 2**30, per_token),
        f"{pool} x 2^30 bytes / {per_token:,} bytes a token.",
        unit="tokens",
    )
    block, prompt, output = rng.choice([16, 32]), rng.randrange(50, 400), rng.randrange(20, 200)
    blocks = math.ceil((prompt + output) / block)
    ask(
        "blocks",
        "1",
        f"Blocks hold {block} tokens. A request has {prompt} prompt tokens and has generated {output}. How many "
        "blocks does it hold, when it shares none?",
        blocks,
        f"ceil(({prompt} + {output}) / {block}) = {blocks}: only the last one can be part empty.",
        unit="blocks",
        tolerance=0,
    )
    ask(
        "worst_waste",
        "1",
        f"With blocks of {block} tokens, how many slots can one running request waste at most?",
        block - 1,
        f"Every block but the last is full, and the last holds at least one token: at most {block} - 1.",
        unit="slots",
        tolerance=0,
    )
    total = rng.choice([200, 300, 450, 600])
    ask(
        "reserve_max",
        "1",
        f"An allocator reserves 2,048 slots for each request. Requests end with {total} tokens. What "
        "percent of a request's slots are never used?",
        100 * (1 - total / 2048),
        f"{2048 - total} of 2,048 slots stay empty: the paper's internal fragmentation.",
        unit="%",
    )
    samples, length = (
        rng.choice([3, 4, 6]),
        rng.choice([16 * rng.randrange(2, 9), 16 * rng.randrange(2, 9) + rng.randrange(1, 16)]),
    )
    copies = 0 if length % 16 == 0 else samples - 1
    ask(
        "copy_on_write",
        "1",
        f"{samples} samples share a prompt of {length} tokens in blocks of 16. Each generates its first "
        "token. How many blocks are copied?",
        copies,
        f"{length} = {length // 16} full blocks + {length % 16} tokens. "
        + (
            "The prompt ends at a block's edge: nobody writes into a shared block."
            if copies == 0
            else f"Each writes into the shared last block; all but the last writer copy it: {samples} - 1."
        ),
        unit="blocks",
        tolerance=0,
    )
    choose("external", "1", "Which waste does paging remove because every block has the same size?", "external fragmentation",
           ["internal fragmentation in the last block", "memory for activations", "the weights' share"],
           "Any free block fits any request, so no gap is too small. The last block of a request can still be part empty.")  # fmt: skip


def _batching(rng, ask, choose):
    outputs = rng.sample([10, 20, 30, 40, 60, 80, 120, 160], 4)
    share = scheduling.wave_slots_used(outputs, 4)
    ask(
        "wave",
        "2",
        f"A static batch of 4 generates {outputs} tokens. What percent of its places are busy, averaged over its "
        "steps?",
        100 * share,
        f"{sum(outputs)} tokens in 4 x {max(outputs)} places: the wave lasts as long as its longest answer.",
        unit="%",
    )
    lengths = [rng.choice([10, 20, 40, 80]) for _ in range(6)]
    requests = [scheduling.Arrival(0.0, 1, o) for o in lengths]
    flat = scheduling.StepCost(1.0, 0.0, 0.0)
    steps = len(scheduling.simulate_schedule(requests, "iteration", flat, 2).steps)
    ask(
        "continuous_steps",
        "2",
        f"Two places; six requests with answers of {lengths} tokens wait, in this order. A place is refilled "
        "as soon as its request ends. After how many steps is the last one done?",
        steps,
        "Give each request in turn the place that is free first and add up its answer; the longer place decides.",
        unit="steps",
        tolerance=0,
    )
    choose(
        "orca",
        "2",
        "What did Orca schedule anew at every step?",
        "the set of requests in the batch",
        ["the GPU's clock", "which layer runs on which GPU", "the order of the layers"],
        "Iteration-level scheduling: after each step finished requests leave and waiting ones join.",
    )
    choose("selective", "2", "Why does Orca treat attention apart from the other operations of a layer (selective batching)?",
           "requests of different lengths have keys of different shapes",
           ["attention needs another GPU", "attention has no weights to load", "softmax is not exact in a batch"],
           "Linear layers see one long row of tokens; attention needs each request's own keys and values.")  # fmt: skip


def _flash(rng, ask, choose):
    tokens, heads = rng.choice([2048, 4096, 8192]), rng.choice([16, 28, 32])
    ask(
        "scores",
        "3",
        f"How many GiB would the score matrix of one layer take for one prompt of {tokens:,} tokens, {heads} heads, "
        "in two-byte numbers?",
        heads * tokens**2 * 2 / 2**30,
        f"{heads} x {tokens:,}^2 x 2 bytes.",
        unit="GiB",
    )
    factor = rng.choice([2, 3, 4])
    ask(
        "standard_growth",
        "3",
        f"The prompt becomes {factor} times longer. By what factor does the standard way's traffic grow, when "
        "the prompt is much longer than the head size?",
        factor**2,
        "Nd + N^2 with N much larger than d: N^2.",
        unit="x",
    )
    more = rng.choice([2, 4])
    ask(
        "sram",
        "3",
        f"The fast memory becomes {more} times larger. By what factor does FlashAttention's traffic change "
        "(theorem 2)?",
        1 / more,
        "N^2 d^2 / M: inversely with M.",
        unit="x",
    )
    choose("exact", "3", "How does FlashAttention's result differ from standard attention's?", "only by rounding",
           ["it drops small scores", "it is a low-rank approximation", "it attends to a window"],
           "The running maximum and sum make the softmax exact, tile by tile.")  # fmt: skip


def _deepspeed(rng, ask, choose):
    batch = rng.choice([1, 2, 4, 8])
    ask(
        "intensity",
        "4",
        f"A layer multiplies {batch} row{'s' * (batch > 1)} with an 8,192 x 8,192 matrix in bfloat16. About how many floating-point "
        "operations does it do per byte that it moves?",
        deepspeed_inference.Product(batch, 8192, 8192).intensity,
        f"2 x {batch} operations per weight, 2 bytes per weight.",
        unit="FLOP/byte",
        tolerance=0.05,
    )
    tflops, tbs = rng.choice([(312, 2.0), (989, 3.35), (121, 0.3), (362, 0.864)])
    ask(
        "knee",
        "4",
        f"A GPU has {tflops} TFLOP/s in bfloat16 and {tbs} TB/s. From about which batch do such products stop waiting for "
        "the weights?",
        deepspeed_inference.knee_batch(tflops * 1e12, tbs * 1e12),
        f"{tflops} / {tbs} operations per byte, one per row.",
        unit="rows",
        tolerance=0.05,
    )
    billions, bandwidth = rng.choice([7, 8, 14, 32]), rng.choice([1.0, 2.0, 3.35])
    ask(
        "floor",
        "4",
        f"A model of {billions} billion parameters in bfloat16, memory at {bandwidth} TB/s, one request. No step can be "
        "faster than how many milliseconds?",
        2 * billions / bandwidth,
        f"{2 * billions} GB / {bandwidth} TB/s: each step reads every weight.",
        unit="ms",
    )
    choose("abstracts", "4", "The paper has two abstracts. Which latency gain stands in the SC22 proceedings?", "6.4x",
           ["7.3x", "25x", "1.5x"], "7.3x is the arXiv version's; 1.5x is throughput, 25x the size of the models.")  # fmt: skip


def _steps(rng, ask, choose):
    budget, running, prompt = (
        rng.choice([256, 512]),
        rng.choice([16, 32, 56]),
        rng.choice([1000, 2000, 3000]),
    )
    chunks = math.ceil(prompt / (budget - running))
    ask(
        "chunks",
        "5",
        f"max_num_batched_tokens is {budget} and {running} requests are generating. In how many steps is a prompt of "
        f"{prompt:,} tokens processed?",
        chunks,
        f"{budget} - {running} = {budget - running} prompt tokens a step, rounded up.",
        unit="steps",
        tolerance=0,
    )
    alpha, gamma = rng.choice([0.6, 0.7, 0.8, 0.9]), rng.choice([2, 3, 4, 5])
    ask(
        "per_step",
        "5",
        f"{gamma} tokens are drafted and each is accepted with chance {alpha}. How many tokens does one step of the "
        "target yield on average?",
        speculative.expected_tokens(alpha, gamma),
        f"(1 - {alpha}^{gamma + 1}) / (1 - {alpha}).",
        unit="tokens",
    )
    c = rng.choice([0.05, 0.1, 0.2])
    ask(
        "gain",
        "5",
        f"One draft step takes {c} of a target step. What speed-up does theorem 3.8 give?",
        speculative.speedup(alpha, gamma, c),
        f"The tokens per step of the question before, divided by {gamma} x {c} + 1.",
        unit="x",
    )
    choose("not_worth", "5", f"A draft takes {rng.choice([0.5, 0.6])} of a target step and 4 of 10 tokens are accepted. What helps?",
           "no number of drafted tokens: switch it off", ["drafting 2 tokens", "drafting 10 tokens", "a larger batch"],
           "Corollary 3.9: a gain needs alpha > c.")  # fmt: skip


def _docs(rng, ask, choose):
    choose(
        "argument",
        "6",
        "Which engine argument sets the size of a prefill chunk beside running requests?",
        "max_num_batched_tokens",
        ["max_num_seqs", "block_size", "max_model_len"],
        "A step holds at most that many tokens; running requests take theirs first.",
    )
    heads, kv = rng.choice([(28, 4), (40, 8), (32, 8)])
    valid = [t for t in range(1, 9) if heads % t == 0 and (kv % t == 0 if kv >= t else t % kv == 0)]
    bad = [t for t in (2, 3, 4, 5, 6, 8) if t not in valid]
    wrong = rng.choice([t for t in bad if heads % t] or bad)
    choose(
        "tp_size",
        "6",
        f"A model has {heads} attention heads and {kv} KV heads. Which tensor_parallel_size does vLLM refuse?",
        str(wrong),
        [str(t) for t in valid if t > 1][:3] or ["1"],
        f"The heads are dealt out evenly: {heads} is not divisible by {wrong}.",
    )
    layers = rng.choice([28, 32, 64, 80])
    ask(
        "all_reduces",
        "6",
        f"Tensor parallelism, {layers} layers. How many all-reduces do the layers of one step need?",
        2 * layers,
        "One after attention and one after the MLP of each layer (Megatron-LM); embedding and logits add their own.",
        unit="all-reduces",
        tolerance=0,
    )
    ttft, e2e, tokens = (
        rng.choice([120, 200, 350]),
        rng.choice([2000, 2600, 4100]),
        rng.choice([51, 101, 201]),
    )
    ask("tpot", "6", f"A request has TTFT {ttft} ms, end to end {e2e:,} ms and {tokens} output tokens. What is its TPOT?",
        (e2e - ttft) / (tokens - 1), f"({e2e} - {ttft}) / ({tokens} - 1): the first token belongs to TTFT.", unit="ms")  # fmt: skip


def _cost(rng, ask):
    price, speed, busy = (
        rng.choice([1.2, 2.5, 4.0]),
        rng.choice([800, 2500, 6000]),
        rng.choice([0.2, 0.4, 0.8]),
    )
    inputs = cost.CostInputs(price, speed, busy)
    ask(
        "per_million",
        "7",
        f"A GPU costs {price} an hour and generates {speed:,} tokens/s when busy, which it is {busy:.0%} of the "
        "time. What do a million tokens cost?",
        cost.cost_per_million(inputs),
        f"{price} / ({speed:,} x 3,600 x {busy}) x 10^6.",
        unit="your currency",
    )
    factor = rng.choice([2, 4])
    ask("idle", "7", f"The same GPU is busy only 1/{factor} as often. By what factor does the price of a million tokens grow?", factor,
        "You pay for the hour; the tokens are fewer.", unit="x")  # fmt: skip


# --- grading ------------------------------------------------------------------------------------------------------


def check(question: Question, given) -> Verdict:
    """One answer: a number, a text that holds one, or the chosen option."""
    if given is None or given == "":
        return Verdict(question, given, None, "Not answered yet.")
    if question.choices:
        right = str(given) == str(question.answer)
        shown = question.answer
    else:
        value = read_number(str(given), question.unit)
        if value is None:
            return Verdict(
                question,
                given,
                None,
                f"{given!r} is not a number in {question.unit}: write digits, such as 3.5.",
            )
        right = math.isclose(value, question.answer, rel_tol=question.tolerance, abs_tol=1e-9)
        shown = f"{number(float(question.answer))} {question.unit}"
    start = "Right." if right else f"Not yet. Right is {shown}."
    end = "" if right else f" Reread section {question.section}, {SECTIONS[question.section]}."
    return Verdict(question, given, right, f"{start} {question.why}{end}")


def grade(questions: list[Question], answers: dict | None) -> Score:
    """All answers, by question id. Raises ValueError for an id that no question has."""
    answers = answers or {}
    if unknown := set(answers) - {q.id for q in questions}:
        raise ValueError(
            f"no question is called {min(unknown)!r}; there are {', '.join(q.id for q in questions)}"
        )
    return Score(tuple(check(q, answers.get(q.id)) for q in questions))


def read_answers(given) -> dict:
    """Answers of a headless run: a dict, or the path of a JSON file that holds one. {} for None."""
    if given is None:
        return {}
    if isinstance(given, dict):
        return given
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The answers in {given} cannot be read ({error}): give a JSON object of question id: answer."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"The answers in {given} are a {type(found).__name__}: give a JSON object of question id: answer."
        )
    return found


# --- in the notebook ----------------------------------------------------------------------------------------------


def save_score(store, score: Score, student: str = "") -> None:
    """Experiment "self_check", variant "score". Nothing is saved while nobody has answered."""
    if score.answered:
        answers = {v.question.id: v.given for v in score.verdicts if v.correct is not None}
        metrics = {
            "correct": score.correct,
            "questions": score.questions,
            "answered": score.answered,
        }
        store.save("self_check", "score", metrics, answers=answers, student=student)


class Quiz:
    """The open quiz of a notebook. `score` is always what has been answered so far."""

    def __init__(self, store, questions: list[Question], student: str = "", given=None):
        self.store, self.questions, self.student = store, questions, student
        saved = store.get("self_check", "score") or {}
        # Another name means other numbers: old answers do not belong to them.
        mine = saved.get("answers") if saved.get("student", "") == student else None
        known = {q.id for q in questions}
        self.answers: dict = {k: v for k, v in (mine or {}).items() if k in known}
        if given := read_answers(given):
            grade(questions, given)  # an unknown id is an error, not a silent zero
            self.answers |= given
            if self.answers != mine:
                save_score(store, self.score, student)

    @property
    def score(self) -> Score:
        return grade(self.questions, self.answers)

    def answer(self, question: Question, given) -> Verdict:
        """Take one answer, save the score, say how it did."""
        if given in (None, ""):
            return check(question, given)
        if self.answers.get(question.id) != given:
            self.answers[question.id] = given
            save_score(self.store, self.score, self.student)
        return check(question, given)


def take(store, questions: list[Question], student: str = "", given=None) -> Quiz:
    """Show the quiz: a form with a verdict at each question, or, without widgets, the questions and their answers."""
    quiz = Quiz(store, questions, student, given)
    if card.has_widgets():
        _form(quiz)
    else:
        card.show(_static(quiz))
    return quiz


def _static(quiz: Quiz, beside_form: bool = False) -> card.Static:
    """The score and every question with its verdict; beside a form only those that have been answered."""
    return card.Static(_quiz_html(quiz, beside_form), _quiz_text(quiz))


def _said(verdict: Verdict) -> str:
    return f"<span style='color:{_colour(verdict.correct)}'>{_mark(verdict.correct)}{html.escape(verdict.sentence)}</span>"


def _wanted(question: Question) -> str:
    return "as a factor" if question.unit == "x" else f"in {question.unit}"


def _colour(correct: bool | None) -> str:
    return {True: "#006B4F", False: "#A33E00", None: card.INK}[correct]


def _mark(correct: bool | None) -> str:
    return {True: "✓ ", False: "✗ ", None: ""}[correct]


def _form(quiz: Quiz) -> None:
    import ipywidgets as w
    from IPython.display import display

    place = card.Place()  # plain HTML below the form: what a saved notebook keeps
    boxes, tabs = [], []

    def one(n: int, question: Question):
        said = w.HTML()
        text = w.HTML(f"<b>{n}.</b> {html.escape(question.text)}")
        value = quiz.answers.get(question.id)
        if question.choices:
            control = w.RadioButtons(
                options=question.choices,
                value=value if value in question.choices else None,
                layout=w.Layout(width="auto"),
            )
        else:
            control = w.Text(value="" if value is None else str(value), placeholder=_wanted(question), continuous_update=False,
                             layout=w.Layout(width="200px"))  # fmt: skip
        control.tooltip = question.text

        def changed(_=None):
            try:
                verdict = quiz.answer(question, control.value)
                said.value = _said(verdict)
            except Exception as error:  # a full disk: the student must see it
                said.value = html.escape(f"Not saved: {error}")
            place.put(_static(quiz, beside_form=True))

        control.observe(changed, "value")
        if value is not None:
            said.value = _said(check(question, value))
        row = control if question.choices else w.HBox([control, w.Label(question.unit)])
        return w.VBox([text, row, said], layout=w.Layout(margin="4px 0 12px 0"))

    number_ = 0
    for section, title in SECTIONS.items():
        mine = []
        for question in (q for q in quiz.questions if q.section == section):
            number_ += 1
            mine.append(one(number_, question))
        if mine:
            boxes.append(w.VBox(mine))
            tabs.append(f"{section} {title}")
    display(w.Accordion(children=boxes, titles=tabs, selected_index=0))
    place.put(_static(quiz, beside_form=True))


def _quiz_html(quiz: Quiz, beside_form: bool) -> str:
    score = quiz.score
    parts = []
    for n, v in enumerate(score.verdicts, 1):
        q = v.question
        if v.correct is None and beside_form:
            continue
        options = f" ({'; '.join(q.choices)})" if q.choices else f" ({_wanted(q)})"
        answer = q.answer if q.choices else f"{number(float(q.answer))} {q.unit}"
        if v.correct is None:
            body = (f"<details style='margin:0 0 4px 16px'><summary style='cursor:pointer'>answer</summary>"
                    f"{html.escape(f'{answer}. {q.why}')}</details>")  # fmt: skip
        else:
            body = f"<div style='margin:0 0 4px 16px;color:{_colour(v.correct)}'>{html.escape(f'{_mark(v.correct)}{v.given}. {v.sentence}')}</div>"
        parts.append(
            f"<div><b>{n}.</b> <small>[{q.section}]</small> {html.escape(q.text + options)}{body}</div>"
        )
    return f'<div style="{card.CARD}"><b>Self-check: {html.escape(str(score))}</b>{"".join(parts)}</div>'


def _quiz_text(quiz: Quiz) -> str:
    score = quiz.score
    lines = [f"Self-check: {score}"]
    for n, v in enumerate(score.verdicts, 1):
        lines.append(
            f"{n}. [{v.question.section}] {v.question.text}"
            + ("" if v.correct is None else f"\n   {_mark(v.correct)}{v.given}. {v.sentence}")
        )
    return "\n".join(lines)
