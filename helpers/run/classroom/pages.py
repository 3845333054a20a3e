"""class.csv and class.html: a row and a page for each student, and a summary of the class.

Everything here comes from students and is text, never markup: jinja2 escapes it, and the page's
policy forbids scripts. In the CSV a cell that a spreadsheet would take for a formula is quoted.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
import urllib.parse
from collections import Counter
from pathlib import Path

import jinja2

from helpers.results.blanks import show
from helpers.run import summary

CSV_COLUMNS = (
    "student",
    "verdict",
    "why",
    "seconds",
    "notebooks_ok",
    "notebooks",
    "blanks_measured",
    "blanks_calculated",
    "blanks_typed",
    "blanks_missing",
    "predictions_typed",
    "predictions_median_ratio",
    "self_check_right",
    "self_check_questions",
    "checklist_done",
    "numbers_that_differ",
    "measurements",
    "damaged_lines",
    "shared_with",
    "insight_1",
    "insight_2",
    "insight_3",
    "checklist",
    "notes",
)


def csv_cell(value) -> str:
    """Text for a cell; a leading = + - @ or tab would run as a formula when a spreadsheet opens it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = " ".join(str(value if value is not None else "").split())
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


def shared(students: list[dict]) -> dict[str, list[str]]:
    """{slug: names of students whose measurements have the same ids}: ids are random, so one copied."""
    owners: dict[str, list[dict]] = {}
    for student in students:
        for record_id in set(student["content"].get("ids", ())):
            owners.setdefault(record_id, []).append(student)
    result: dict[str, list[str]] = {}
    for group in owners.values():
        if len(group) > 1:
            for student in group:
                others = [o["name"] for o in group if o is not student]
                known = result.setdefault(student["slug"], [])
                known += [name for name in others if name not in known]
    return result


def row(student: dict, shared_with: list[str]) -> dict:
    content = student["content"]
    counts = content.get("counts", {})
    typed = [
        p
        for p in content.get("predictions", ())
        if p["by"] in ("student", "parameter") and p["ratio"]
    ]
    check = content.get("self_check") or {}
    insights = [*content.get("insights", ()), "", "", ""]
    return {
        "student": student["name"],
        "verdict": student["verdict"],
        "why": student["why"],
        "seconds": student["seconds"],
        "notebooks_ok": sum(nb["status"] == "ok" for nb in student["notebooks"]),
        "notebooks": len(student["notebooks"]),
        **{
            f"blanks_{kind}": counts.get(kind, "")
            for kind in ("measured", "calculated", "typed", "missing")
        },
        "predictions_typed": len(typed),
        "predictions_median_ratio": statistics.median(p["ratio"] for p in typed) if typed else "",
        "self_check_right": _blank(check.get("correct")),
        "self_check_questions": _blank(check.get("questions")),
        "checklist_done": len(content.get("checklist", ())),
        "numbers_that_differ": len(content.get("differ", ())),
        "measurements": content.get("records", 0),
        "damaged_lines": content.get("damaged_lines", 0),
        "shared_with": "; ".join(shared_with),
        "insight_1": insights[0],
        "insight_2": insights[1],
        "insight_3": insights[2],
        "checklist": "; ".join(f"{c['item']} ({c['by']})" for c in content.get("checklist", ())),
        "notes": "; ".join(student["notes"]),
    }


def _blank(value):
    return "" if value is None else value


def histogram(
    values: list[float],
    low: float | None = None,
    high: float | None = None,
    bins: int = 10,
    whole: bool = False,
) -> list[dict]:
    """[{"from", "to", "count", "share"}]; [] without values. share: of the fullest bin, in percent.

    whole: the values are counts, and every bin is a range of whole numbers.
    """
    values = [float(v) for v in values if isinstance(v, (int, float))]
    if not values:
        return []
    low = min(values) if low is None else low
    high = max(values) if high is None else high
    if high <= low:
        return [{"from": show(low), "to": show(low), "count": len(values), "share": 100}]
    if whole:
        step = max(1, math.ceil((high - low + 1) / bins))
        starts = range(int(low), int(high) + 1, step)
        counts = [sum(start <= value < start + step for value in values) for start in starts]
        return [
            {
                "from": str(start),
                "to": str(min(start + step - 1, int(high))),
                "count": c,
                "share": round(100 * c / max(counts)),
            }
            for start, c in zip(starts, counts)
        ]
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    top = max(counts)
    return [
        {
            "from": show(low + n * (high - low) / bins),
            "to": show(low + (n + 1) * (high - low) / bins),
            "count": c,
            "share": round(100 * c / top),
        }
        for n, c in enumerate(counts)
    ]


def class_summary(students: list[dict], rows: list[dict]) -> dict:
    """Distributions, the questions most often wrong, predictions of all side by side."""
    wrong, texts, graded = Counter(), {}, 0
    keys: dict[str, list[dict]] = {}
    for student in students:
        check = student["content"].get("self_check")
        if check and check.get("questions"):
            graded += 1
            wrong.update(check["wrong"])
            texts |= check["texts"]
        for prediction in student["content"].get("predictions", ()):
            if prediction["ratio"]:
                keys.setdefault(prediction["key"], []).append(
                    prediction | {"name": student["name"]}
                )
    predictions = []
    for key, found in keys.items():
        typed = [p["ratio"] for p in found if p["by"] in ("student", "parameter")]
        rest = [p["ratio"] for p in found if p["by"] not in ("student", "parameter")]
        predictions.append(
            {
                "key": key.replace("_", " "),
                "typed": len(typed),
                "median": show(statistics.median(typed)) if typed else "",
                "low": show(min(typed)) if typed else "",
                "high": show(max(typed)) if typed else "",
                "formula": show(statistics.median(rest)) if rest else "",
            }
        )
    shares = [
        100 * r["self_check_right"] / r["self_check_questions"]
        for r in rows
        if r["self_check_questions"]
    ]
    return {
        "verdicts": Counter(s["verdict"] for s in students).most_common(),
        "graded": graded,
        "wrong": [
            {"id": q, "count": n, "share": round(100 * n / graded), "text": texts.get(q, "")}
            for q, n in wrong.most_common(10)
        ],
        "predictions": predictions,
        "distributions": [
            d
            for d in (
                {"title": "Self-check, per cent right", "bars": histogram(shares, 0, 100)},
                {
                    "title": "Blanks filled (measured, calculated or typed)",
                    "bars": histogram(
                        [
                            sum(r[f"blanks_{k}"] or 0 for k in ("measured", "calculated", "typed"))
                            for r in rows
                            if r["blanks_missing"] != ""
                        ],
                        whole=True,
                    ),
                },
                {
                    "title": "Checklist items done",
                    "bars": histogram(
                        [r["checklist_done"] for r in rows if r["blanks_missing"] != ""],
                        0,
                        8,
                        9,
                        whole=True,
                    ),
                },
                {
                    "title": "Seconds on this machine",
                    "bars": histogram(
                        [round(r["seconds"]) for r in rows if r["verdict"] in ("ran", "failed")],
                        whole=True,
                    ),
                },
            )
            if d["bars"]
        ],
    }


PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""
<style>
.wide { overflow-x: auto; } body { max-width: 80rem; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; padding: .4rem .9rem; }
summary { cursor: pointer; font-weight: 600; } summary .soft { font-weight: 400; }
.bars { display: flex; flex-wrap: wrap; gap: 2.5rem; } .bars table { margin: .3rem 0; }
.bars td { border: 0; padding: 0 .5rem 0 0; font-size: .85rem; } .bar { display: inline-block; height: .8rem; background: #0072b2; border-radius: 2px; }
h3 { margin: 1.1rem 0 .3rem; font-size: 1rem; } ul { margin: .3rem 0; } .n { text-align: right; }
</style>
<h1>The class: {{ students|length }} students</h1>
<p>{% for verdict, count in about.verdicts %}{{ count }} {{ verdict }}{{ ", " if not loop.last }}{% endfor %}.
{{ "Nothing was executed; this is what was submitted." if run.read_only else "Notebooks were executed on this machine; predictions, answers and checklist are from what was submitted." }}
The same as a table: <a href="class.csv">class.csv</a>.</p>
<div class="wide"><table>
<tr><th>student</th><th>verdict</th><th class="n">notebooks that ran</th><th class="n">seconds</th><th class="n">blanks: measured / calculated / typed / missing</th><th class="n">predictions typed</th><th class="n">self-check</th><th class="n">checklist</th><th class="n">numbers that differ</th><th>why</th></tr>
{% for s, r in pairs %}
<tr><td><a href="#{{ s.slug }}">{{ s.name }}</a></td>
<td class="{{ 'good' if r.verdict in ('ran', 'read') and not r.why else 'bad' }}">{{ r.verdict }}</td>
<td class="n">{{ r.notebooks_ok ~ " of " ~ r.notebooks if r.notebooks }}</td><td class="n">{{ '%.0f'|format(r.seconds) }}</td>
<td class="n">{{ [r.blanks_measured, r.blanks_calculated, r.blanks_typed, r.blanks_missing]|join(" / ") if s.content }}</td><td class="n">{{ r.predictions_typed or "" }}</td>
<td class="n">{{ '%g / %g'|format(r.self_check_right, r.self_check_questions) if r.self_check_questions != '' and r.self_check_right != '' else '' }}</td>
<td class="n">{{ r.checklist_done or "" }}</td><td class="n {{ 'bad' if r.numbers_that_differ }}">{{ r.numbers_that_differ or '' }}</td><td class="soft">{{ r.why|truncate(90) }}</td></tr>
{% endfor %}
</table></div>

<h2>Distributions</h2>
<div class="bars">
{% for d in about.distributions %}
<div><h3>{{ d.title }}</h3><table>{% for b in d.bars %}<tr><td class="n">{{ b.from }}{{ " to " ~ b.to if b.from != b.to }}</td><td><span class="bar" style="width:{{ b.share * 1.2 }}px"></span></td><td class="n">{{ b.count or "" }}</td></tr>{% endfor %}</table></div>
{% else %}<p>Nothing to show yet.</p>{% endfor %}
</div>

<h2>Questions most often wrong</h2>
{% if about.wrong %}<table><tr><th>question</th><th>wrong</th><th>of those who took the self-check</th><th>as one of them was asked it</th></tr>
{% for q in about.wrong %}<tr><td>{{ q.id }}</td><td class="n">{{ q.count }}</td><td class="n">{{ q.share }} %</td><td>{{ q.text }}</td></tr>{% endfor %}</table>
{% else %}<p>{{ "No wrong answers." if about.graded else "Nobody has taken the self-check." }}</p>{% endif %}

{% if about.predictions %}<h2>Predictions: measured / predicted</h2>
<table><tr><th>prediction</th><th>typed by</th><th>median</th><th>lowest</th><th>highest</th><th>the formula's median</th></tr>
{% for p in about.predictions %}<tr><td>{{ p.key }}</td><td class="n">{{ p.typed }}</td><td class="n">{{ p.median }}</td><td class="n">{{ p.low }}</td><td class="n">{{ p.high }}</td><td class="n">{{ p.formula }}</td></tr>{% endfor %}</table>{% endif %}

<h2>Insights side by side</h2>
<div class="wide"><table><tr><th>student</th><th>1</th><th>2</th><th>3</th></tr>
{% for s in students if s.content.insights %}<tr><td><a href="#{{ s.slug }}">{{ s.name }}</a></td>{% for text in s.content.insights[:3] %}<td>{{ text }}</td>{% endfor %}</tr>
{% else %}<tr><td colspan="4">Nobody has written one.</td></tr>{% endfor %}</table></div>

<h2>Students</h2>
{% for s, r in pairs %}
<details id="{{ s.slug }}"><summary>{{ s.name }} <span class="soft">{{ r.verdict }}{{ ": " ~ s.why if s.why }}</span></summary>
{% if s.notebooks %}<h3>Notebooks</h3><table>
{% for nb in s.notebooks %}<tr><td>{% if pages[s.slug][loop.index0] %}<a href="{{ pages[s.slug][loop.index0] }}" rel="noopener noreferrer" target="_blank">{{ nb.name }}</a>{% else %}{{ nb.name }}{% endif %}</td>
<td class="{{ 'good' if nb.status == 'ok' else 'bad' }}">{{ nb.status }}</td><td class="n">{{ '%.0f s'|format(nb.seconds) if nb.seconds }}</td><td class="n">{{ nb.cells_done }} of {{ nb.cells }} cells</td>
<td>{% if nb.failure %}{{ sentence(nb.failure) }}{% if nb.failure.log_tail %}<pre>{{ nb.failure.log_tail|join("\n") }}</pre>{% endif %}{% endif %}</td></tr>{% endfor %}</table>{% endif %}
{% if s.content.differ %}<h3>Numbers in the text that differ from the submitted measurements</h3><ul>{% for line in s.content.differ %}<li class="bad">{{ line }}</li>{% endfor %}</ul>{% endif %}
{% if shared.get(s.slug) %}<h3>Measurements shared with others</h3><p class="bad">The same records (by their random ids) are in the submission of {{ shared[s.slug]|join(", ") }}.</p>{% endif %}
{% if s.content.insights or s.content.questions %}<h3>Insights and questions</h3><ol>{% for text in s.content.insights %}<li>{{ text }}</li>{% endfor %}</ol><ul>{% for text in s.content.questions %}<li>{{ text }}</li>{% endfor %}</ul>{% endif %}
{% if s.content.predictions %}<h3>Predictions</h3><table><tr><th>what</th><th>predicted</th><th>measured</th><th>measured / predicted</th><th>by</th><th>why they differ</th></tr>
{% for p in s.content.predictions %}<tr><td>{{ p.key.replace("_", " ") }}</td><td class="n">{{ show(p.predicted) }} {{ p.unit }}</td><td class="n">{{ (show(p.measured) ~ " " ~ p.unit) if p.measured is not none else "" }}</td>
<td class="n">{{ show(p.ratio) if p.ratio else "" }}</td><td>{{ p.by }}{{ ", changed after measuring" if p.after }}</td><td>{{ p.why }}</td></tr>{% endfor %}</table>{% endif %}
{% if s.content.self_check %}<h3>Self-check</h3><p>{{ '%g of %g right'|format(s.content.self_check.correct or 0, s.content.self_check.questions or 0) }}{{ " (" ~ s.content.self_check.note ~ ")" if s.content.self_check.note }}{{ "; wrong: " ~ s.content.self_check.wrong|join(", ") if s.content.self_check.wrong }}{{ "; taken as “" ~ s.content.self_check.student ~ "”" if s.content.self_check.student }}.</p>{% endif %}
{% if s.content.checklist %}<h3>Checklist</h3><ul>{% for c in s.content.checklist %}<li>{{ c.item }} <span class="soft">({{ "by evidence" if c.by == "evidence" else "by the student" }}{{ ": " ~ c.why if c.by == "evidence" }})</span></li>{% endfor %}</ul>{% endif %}
{% if s.content.blanks %}<h3>Blanks</h3><table>{% for b in s.content.blanks %}<tr><td>{{ b.label }}</td><td>{{ b.value[:300] }}</td><td class="{{ 'soft' if b.kind == 'missing' }}">{{ b.kind }}</td></tr>{% endfor %}</table>{% endif %}
{% if s.content %}<p class="soft">{{ s.content.records }} measurements{{ ", " ~ s.content.damaged_lines ~ " damaged lines" if s.content.damaged_lines }}{{ "; measured on " ~ s.content.machines|join("; ") if s.content.machines }}.
Files: {% for name, link in files[s.slug] %}<a href="{{ link }}">{{ name }}</a>{{ ", " if not loop.last }}{% endfor %}</p>{% endif %}
{% if s.notes %}<p class="soft">{% for note in s.notes %}{{ note }}{{ " " if not loop.last }}{% endfor %}</p>{% endif %}
</details>
{% endfor %}
{% if notes %}<h2>Left out</h2><ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
""")


def _link(path: Path, out: Path) -> str:
    return urllib.parse.quote(path.relative_to(out).as_posix())


def _files(folder: Path, out: Path) -> list[tuple[str, str]]:
    wanted = (
        ("filled my_learnings.md", "export/my_learnings.md"),
        ("filled distributed_planning.md", "export/distributed_planning.md"),
        ("measurements", "submitted/measurements.jsonl"),
        ("measured here", "measured_here/measurements.jsonl"),
    )
    return [
        (name, _link(folder / place, out)) for name, place in wanted if (folder / place).is_file()
    ]


def write(out: Path, students: list[dict], notes: list[str], about_run: dict) -> None:
    """class.csv and class.html in `out`; called again whenever there is more."""
    common = shared(students)
    rows = [row(student, common.get(student["slug"], [])) for student in students]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows([csv_cell(r[column]) for column in CSV_COLUMNS] for r in rows)
    # With a byte order mark, so that spreadsheets read names that are not Latin.
    (out / "class.csv").write_text(
        text.getvalue(), encoding="utf-8-sig", errors="replace", newline=""
    )
    pages, files = {}, {}
    for student in students:
        folder = out / "students" / student["slug"]
        made = [
            folder / "notebooks" / f"{n:02}.html" for n in range(1, len(student["notebooks"]) + 1)
        ]
        pages[student["slug"]] = [_link(path, out) if path.is_file() else "" for path in made]
        files[student["slug"]] = _files(folder, out)
    body = PAGE.render(
        students=students,
        pairs=list(zip(students, rows)),
        about=class_summary(students, rows),
        run=about_run,
        notes=notes,
        pages=pages,
        files=files,
        shared=common,
        sentence=summary.one_sentence,
        show=show,
    )
    (out / "class.html").write_text(
        summary.page("The class", body), encoding="utf-8", errors="replace"
    )
