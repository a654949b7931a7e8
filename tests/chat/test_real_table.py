"""What docs/templates.md says of real templates (tests/chat/real judges them, in a tier of its own)."""

from tests.chat.real import table
from tests.chat.real.families import PAIRS


def test_most_of_what_real_templates_can_print_is_exact_and_nothing_silently_wrong() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("| `trl/", "| `llama.cpp/", "| `vllm/"))]
    assert len(rows) == len(PAIRS) and "WRONG" not in text
    (totals,) = [line for line in text.splitlines() if line.startswith("| **exact**")]
    for cell in totals.split("|")[2:-1]:
        exact, _, printable = cell.split()
        assert int(exact) >= 0.77 * int(printable), totals
