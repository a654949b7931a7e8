"""The table of docs/templates.md that is made from real templates."""

from collections.abc import Sequence
from pathlib import Path

from tests.chat.real.conversations import COLUMNS
from tests.chat.real.judge import EXACT, REFUSED, UNPRINTABLE, WRONG, Verdict

PAGE = Path(__file__).parents[3] / "docs" / "templates.md"
_BEGIN, _END = "<!-- table: python -m tests.chat.real -->", "<!-- end of real table -->"


def kind_of(verdicts: Sequence[Verdict], column: str) -> str:
    """One word for a column: the worst of its conversations that the template can print at all."""
    kinds = {verdict.kind for verdict in verdicts if verdict.talk.column == column}
    return next((kind for kind in (WRONG, REFUSED, EXACT) if kind in kinds), UNPRINTABLE)


def cell(verdicts: Sequence[Verdict], column: str) -> str:
    """`exact`; or how many of the conversations that the template can print are."""
    found = [verdict for verdict in verdicts if verdict.talk.column == column and verdict.kind != UNPRINTABLE]
    if column == "thinking" and not _thinks(found):
        return "–"
    kind = kind_of(verdicts, column)
    if kind != REFUSED:
        return "–" if kind == UNPRINTABLE else kind
    exact = sum(verdict.kind == EXACT for verdict in found)
    return f"{exact} of {len(found)}" if exact else "refused"


def read_back(verdicts: Sequence[Verdict]) -> str:
    """Of the trained turns with calls, how many `parse` reads as what they were."""
    turns = [
        read
        for verdict in verdicts
        if verdict.kind == EXACT and verdict.talk.column in ("tools", "parallel")
        for read in verdict.reads
    ]
    return "–" if not turns else "exact" if all(turns) else f"{sum(turns)} of {len(turns)}"


def row(name: str, verdicts: Sequence[Verdict]) -> str:
    cells = [cell(verdicts, column) for column in COLUMNS]
    return "| " + " | ".join([f"`{name}`", *cells, read_back(verdicts)]) + " |"


def totals(rows: Sequence[str]) -> list[str]:
    """For every column: exact of those that can print it."""
    columns = list(zip(*([cell.strip() for cell in line.split("|")[2:-1]] for line in rows), strict=True))
    return [f"{column.count(EXACT)} of {len(column) - column.count('–')}" for column in columns]


def page(rows: Sequence[str]) -> str:
    """The page with its table written anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    head = ["template", *COLUMNS, "calls read back"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |", *rows]
    lines.append("| " + " | ".join(["**exact**", *totals(rows)]) + " |")
    return before + _BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + _END + after


def _thinks(found: Sequence[Verdict]) -> bool:
    """More than empty thoughts, which every template can leave out."""
    return any(verdict.talk.name != "empty" for verdict in found)
