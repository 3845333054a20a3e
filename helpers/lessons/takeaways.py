"""What to take away from a section: at most four sentences, with the student's own numbers."""

from __future__ import annotations

from helpers.display import card
from helpers.display.as_typed import in_html

MOST = 4


def takeaways(*sentences: str) -> None:
    """Show the sentences as a list. Raises ValueError for none, or more than four."""
    if not 1 <= len(sentences) <= MOST:
        raise ValueError(f"a section has one to {MOST} takeaways, not {len(sentences)}")
    items = "".join(f"<li>{in_html(sentence)}</li>" for sentence in sentences)
    page = f'<b>Take away</b><ul style="margin:2px 0">{items}</ul>'
    text = "\n".join(["Take away:", *(f"- {sentence}" for sentence in sentences)])
    card.show(card.Static(card.box(page, card.GREEN), text))
