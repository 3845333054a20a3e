"""The workbook's drawings: one SVG each, in one style, for a light and a dark theme.

    python docs/drawings/draw.py    # writes docs/drawings/*.svg and puts them into the notebooks

A Markdown cell of a notebook shows one as `![what is to be seen][block_table]`. This puts the SVG
itself at the end of the cell (`[block_table]: data:...`), so it is in every copy and export, too:
JupyterLab shows no SVG that is an attachment, and a path would break in a copy elsewhere.
"""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
SHOWN = re.compile(r"!\[([^\]]*)\]\[(\w+)\]")
CARRIED = re.compile(r"\n*\[(\w+)\]: data:image/svg\+xml;base64,(\S+)")

# What a colour means is the same in all drawings and in the step chart.
STYLE = """
svg { --ink:#1f1f1f; --soft:#5f5f5f; --paper:#fff; --line:#8a8a8a; --none:#fff; --grey:#ececec;
  --prefill:#b5d6ea; --decode:#d6ecf9; --found:#bfe6d8; --memory:#fae0a8; --draft:#f0d3e3;
  --lost:#f9d6c1; background:var(--paper); font:14px system-ui,sans-serif }
@media (prefers-color-scheme:dark) { svg { --ink:#eee; --soft:#b5b5b5; --paper:#1b1b1b;
  --line:#8a8a8a; --none:#1b1b1b; --grey:#3a3a3a; --prefill:#0f5077; --decode:#1d4257;
  --found:#12553f; --memory:#634a0c; --draft:#603150; --lost:#70330f } }
text { fill:var(--ink) } .soft { fill:var(--soft); font-size:12.5px } .head { font-weight:600 }
.mono { font-family:ui-monospace,monospace; font-size:12.5px }
.line { stroke:var(--line); fill:none; stroke-width:1.4 } .tip { fill:var(--line) }
.dashed { stroke-dasharray:5 4 }
"""


class Drawing:
    """Boxes, arrows and words on a sheet; all sizes in the SVG's pixels, y goes down."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.parts: list[str] = []

    def box(self, x, y, width, height, text="", fill="none", kind="", dashed=False) -> None:
        """A box with its text in the middle."""
        line = "line dashed" if dashed else "line"
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" class="{line}" '
            f'style="fill:var(--{fill})"/>'
        )
        if text:
            first = y + height / 2 - 9 * text.count("\n") + 5
            self.words(x + width / 2, first, text, kind, "middle")

    def words(self, x, y, text, kind="", anchor="start", apart=18) -> None:
        """Lines of text from x, or around it (anchor="middle"), or up to it ("end").

        y: of the first line; the others follow, `apart` from each other.
        """
        for i, line in enumerate(text.split("\n")):
            said = html.escape(line)
            self.parts.append(
                f'<text x="{x}" y="{y + apart * i}" class="{kind}" '
                f'text-anchor="{anchor}">{said}</text>'
            )

    def arrow(self, *points, dashed=False) -> None:
        """A line through the points (x, y) with a tip at its end."""
        path = " ".join(f"{x},{y}" for x, y in points)
        line = "line dashed" if dashed else "line"
        self.parts.append(f'<polyline points="{path}" class="{line}" marker-end="url(#tip)"/>')

    def svg(self) -> str:
        """The file's text."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}"><style>{STYLE}</style>'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
            + "\n".join(self.parts)
            + "</svg>\n"
        )


def block_table() -> Drawing:
    """The tokens of a sequence, its block table, and the blocks of the KV cache."""
    d = Drawing(760, 340)
    d.words(20, 28, "A sequence of 10 tokens, cut into blocks of 4", "head")
    tokens = ["Once", "upon", "a", "time", "there", "was", "a", "dog", "named", "Max"]
    for i, token in enumerate(tokens):
        d.box(20 + 58 * i + 14 * (i // 4), 42, 56, 32, token, "decode", "mono")
    d.box(20 + 58 * 10 + 28, 42, 56, 32, "", "none", dashed=True)
    d.box(20 + 58 * 11 + 28, 42, 56, 32, "", "none", dashed=True)
    d.words(740, 112, "Its block table", "head", "end")
    table = ((136, 7), (383, 2), (620, 5))
    for i, (middle, block) in enumerate(table):
        d.box(middle - 70, 130, 140, 34, f"block {i} → {block}", "grey", "mono")
        d.arrow((middle, 80), (middle, 126))
    owners = {7: "Once upon\na time", 2: "there was\na dog", 5: "named Max\n+ 2 places"}
    for block in range(8):
        x = 20 + 91 * block
        fill = "memory" if block in owners else "grey" if block in (0, 3) else "none"
        text = owners.get(block, "another\nrequest" if block in (0, 3) else "free")
        d.box(x, 216, 85, 54, text, fill, "soft" if block not in owners else "mono")
        d.words(x + 42, 286, str(block), "soft", "middle")
    for middle, block in table:
        d.arrow((middle, 168), (20 + 91 * block + 42, 212))
    d.words(20, 308, "The KV cache of the engine: numbered blocks, in any order", "head")
    d.words(
        20, 328, "Only a request's last block has unused places, fewer than a block has.", "soft"
    )
    return d


def prefix_blocks() -> Drawing:
    """Two prompts that begin alike, the hashes of their blocks, and which are found."""
    d = Drawing(760, 330)
    rows = (
        ("Request A came first: its full blocks get a hash and stay in the cache", 30, "memory"),
        (
            "Request B begins alike: blocks are looked up from the left, until one is missing",
            180,
            "",
        ),
    )
    texts = (
        ("You are a", "helpful bot.", "Why is the", "sky"),
        ("You are a", "helpful bot.", "Who was", "Newton"),
    )
    hashes = (("3f9a", "b071", "5d22"), ("3f9a", "b071", "e8c4"))
    for row, (said, y, fill) in enumerate(rows):
        d.words(20, y, said, "head")
        for i, text in enumerate(texts[row]):
            x = 20 + 182 * i
            colour = "none" if i == 3 else fill or ("found" if i < 2 else "prefill")
            d.box(x, y + 14, 160, 34, text, colour, "mono", dashed=i == 3)
            if i == 3:
                d.words(x + 80, y + 78, "not full: no hash", "soft", "middle")
                continue
            d.box(x + 30, y + 62, 100, 26, hashes[row][i], "grey", "mono")
            d.arrow((x + 80, y + 50), (x + 80, y + 60))
            if i:
                d.arrow((x - 50, y + 75), (x + 28, y + 75))
    d.words(20, 142, "hash of a block = hash(hash of the block before, its own tokens)", "soft")
    for i in range(2):
        d.words(100 + 182 * i, 290, "found: no prefill", "soft", "middle")
    d.words(100 + 364, 290, "another hash: prefill from here on", "soft", "middle")
    d.words(20, 320, "One other token in a block changes its hash and all hashes after it.", "soft")
    return d


def draft_and_verify() -> Drawing:
    """Three drafted tokens, one pass of the target model, two accepted."""
    d = Drawing(760, 330)
    d.words(20, 28, "1  The draft model guesses three tokens, one after the other", "head")
    drafts = ("a", "dark", "wood")
    d.box(20, 42, 150, 34, "… there was", "grey", "mono")
    for i, token in enumerate(drafts):
        d.box(200 + 110 * i, 42, 80, 34, token, "draft", "mono")
        d.arrow((172 if not i else 172 + 110 * i, 59), (197 + 110 * i, 59))
    d.words(
        20,
        118,
        "2  The target model reads them all in one step, and says what comes after each",
        "head",
    )
    d.box(20, 128, 660, 46, "target model: one pass, 4 positions", "prefill")
    says = ("a", "dark", "night", "—")
    for i, token in enumerate(says):
        x = 130 + 110 * i if i else 95
        d.arrow((x, 79), (x, 97))
        d.box(x - 40, 196, 80, 34, token, "decode", "mono")
        d.arrow((x, 177), (x, 193))
    d.words(
        20, 268, "3  Accepted as long as they agree; the first that does not is replaced", "head"
    )
    for i, (text, fill) in enumerate(
        (("a  ✓", "found"), ("dark  ✓", "found"), ("night", "decode"))
    ):
        d.box(20 + 95 * i, 282, 85, 34, text, fill, "mono")
    d.box(320, 282, 85, 34, "wood  ✗", "lost", "mono")
    d.words(420, 304, "3 tokens from one step of the target model", "soft")
    return d


def tensor_parallel() -> Drawing:
    """An MLP on two ranks: the first matrix by columns, the second by rows, one all-reduce."""
    d = Drawing(760, 340)
    for rank, y in ((0, 50), (1, 200)):
        d.words(20, y - 12, f"GPU {rank}", "head")
        d.box(20, y + 18, 76, 54, "x\n(all of it)", "grey")
        d.box(150, y, 50, 90, "", "memory" if rank == 0 else "none", dashed=rank == 1)
        d.box(200, y, 50, 90, "", "memory" if rank == 1 else "none", dashed=rank == 0)
        d.words(200, y + 108, "W up: half the columns", "soft", "middle")
        d.box(298, y + 18, 96, 54, "half of the\nhidden units", "decode")
        d.box(440, y, 100, 45, "", "memory" if rank == 0 else "none", dashed=rank == 1)
        d.box(440, y + 45, 100, 45, "", "memory" if rank == 1 else "none", dashed=rank == 0)
        d.words(490, y + 108, "W down: half the rows", "soft", "middle")
        d.box(580, y + 18, 60, 54, "part\nof y", "lost")
        for start, end in ((98, 147), (252, 295), (396, 437), (542, 577)):
            d.arrow((start, y + 45), (end, y + 45))
    d.box(674, 68, 66, 204, "all-\nreduce\n\nadds the\nparts:\ny on\nboth", "found")
    d.arrow((642, 95), (671, 95))
    d.arrow((642, 245), (671, 245))
    d.words(
        20,
        332,
        "The same for attention (heads are the columns): two all-reduces in each layer.",
        "soft",
    )
    return d


def pipeline() -> Drawing:
    """Two stages and two batches in flight; a batch comes back when its token is sampled."""
    d = Drawing(760, 290)
    d.words(20, 28, "Two pipeline stages, two batches in flight", "head")
    colours = {"A": "prefill", "B": "memory"}
    for stage, y, layers in (
        (0, 50, "first half of the layers"),
        (1, 130, "second half, sampling"),
    ):
        d.words(20, y + 20, f"GPU {stage}", "head")
        d.words(20, y + 40, layers, "soft")
        for slot in range(6):
            x = 180 + 92 * slot
            order = slot - stage
            if order < 0:
                d.box(x, y, 88, 48, "idle", "none", "soft", dashed=True)
                continue
            batch = "AB"[order % 2]
            d.box(x, y, 88, 48, f"{batch}, step {order // 2 + 1}", colours[batch])
    for slot in range(5):
        x = 180 + 92 * slot
        d.arrow((x + 70, 100), (x + 106, 127))
    for slot in range(1, 5):
        x = 180 + 92 * slot
        d.arrow(
            (x + 70, 180), (x + 70, 200), (x + 88, 200), (x + 88, 115), (x + 100, 101), dashed=True
        )
    d.arrow((180, 226), (730, 226))
    d.words(735, 231, "t", "soft")
    said = (
        "A batch starts its next step when its last token is sampled (dashed). With one batch each"
        "\nGPU would idle half the time: vLLM keeps as many as stages, one more if it plans ahead."
    )
    d.words(20, 256, said, "soft", apart=20)
    return d


def replicas() -> Drawing:
    """Clients, a router and replicas of the model, each with its own scheduler and KV cache."""
    d = Drawing(760, 330)
    for i in range(4):
        d.box(20, 40 + 66 * i, 90, 40, f"client {i}", "grey")
        d.arrow((112, 60 + 66 * i), (197, 160))
    d.box(200, 100, 150, 120, "router\n\nfewest requests\nwaiting + running", "decode")
    for i, (queue, used) in enumerate(((0, 0.35), (1, 0.6), (5, 0.95))):
        y = 20 + 98 * i
        d.arrow((352, 160), (427, y + 40), dashed=i == 2)
        d.box(430, y, 310, 80, "", "none")
        d.words(442, y + 20, f"replica {i}: all the weights", "head")
        d.words(442, y + 46, "waiting", "soft")
        for j in range(queue):
            d.box(508 + 16 * j, y + 34, 12, 14, "", "lost")
        d.words(442, y + 68, "KV cache", "soft")
        d.box(508, y + 56, 220, 14, "", "none")
        d.box(508, y + 56, 220 * used, 14, "", "memory")
    d.words(
        20,
        318,
        "Nothing is shared: a prefix that is in one replica's cache is not found in another's.",
        "soft",
    )
    return d


def gpu_memory() -> Drawing:
    """How vLLM divides a GPU's memory, from left to right."""
    d = Drawing(760, 250)
    d.words(20, 28, "The memory of one GPU, as vLLM divides it", "head")
    parts = (
        (210, "weights", "prefill"),
        (60, "CUDA,\nNCCL", "grey"),
        (95, "activations\n(peak)", "lost"),
        (70, "CUDA\ngraphs", "draft"),
        (225, "KV cache:\nall that is left", "memory"),
    )
    x = 20
    for width, text, fill in parts:
        d.box(x, 90, width, 64, text, fill)
        x += width
    d.box(x, 90, 60, 64, "kept\nfree", "none", dashed=True)
    d.words(20, 60, "gpu_memory_utilization × memory", "mono")
    d.arrow((20, 74), (x, 74))
    d.arrow((x, 74), (20, 74))
    notes = (
        (125, "parameters × bytes,\ndivided by TP"),
        (340, "largest step:\nmax_num_batched_tokens"),
        (568, "blocks for requests:\nhow many run at once"),
    )
    for middle, text in notes:
        d.arrow((middle, 176), (middle, 158))
        d.words(middle, 192, text, "soft", "middle")
    d.words(
        20,
        240,
        "The KV cache is reserved at the start, so the GPU looks nearly full whatever the load.",
        "soft",
    )
    return d


DRAWINGS = (
    block_table,
    prefix_blocks,
    draft_and_verify,
    tensor_parallel,
    pipeline,
    replicas,
    gpu_memory,
)


def carry(path: Path) -> None:
    """Put each drawing that a notebook's Markdown shows at the end of its cell."""
    before = path.read_text(encoding="utf-8")
    notebook = json.loads(before)
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        names = [name for _, name in SHOWN.findall(text)] if cell["cell_type"] == "markdown" else []
        if names:
            data = [f"[{name}]: data:image/svg+xml;base64,{_encoded(name)}" for name in names]
            text = "\n".join([CARRIED.sub("", text), "", *data])
            cell["source"] = text.splitlines(keepends=True)
    after = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")


def _encoded(name: str) -> str:
    return base64.b64encode((HERE / f"{name}.svg").read_bytes()).decode()


def main() -> None:
    """Write the drawings, then put them where they are shown."""
    for drawing in DRAWINGS:
        (HERE / f"{drawing.__name__}.svg").write_text(drawing().svg(), encoding="utf-8")
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        carry(path)


if __name__ == "__main__":
    main()
