"""What is printed: medians over the rounds, ratios round by round."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scripts.benchmark.harness import Outcome

HEADINGS = (
    "tool",
    "how",
    "tokens/s",
    "supervised/s",
    "ours ÷ it",
    "of the limit",
    "peak GB",
    "start-up s",
    "same?",
)


@dataclass(frozen=True, slots=True)
class Line:
    """A tool's medians. `ratio`: our tokens per second over its. `share`: of the limit."""

    tool: str
    how: str
    tokens_per_second: float
    supervised_per_second: float
    ratio: float
    share: float
    peak_bytes: float
    start_up: float
    agrees: str

    def cells(self) -> tuple[str, ...]:
        return (
            self.tool,
            self.how,
            f"{self.tokens_per_second:,.0f}",
            f"{self.supervised_per_second:,.0f}",
            f"{self.ratio:.2f}",
            f"{100 * self.share:.0f} %",
            f"{self.peak_bytes / 1e9:.2f}",
            f"{self.start_up:.1f}",
            self.agrees,
        )


def summarise(
    outcomes: Sequence[Outcome],
    hows: Mapping[str, str],
    agreements: Mapping[str, str],
    flops_per_token: float,
    peak: float,
) -> list[Line]:
    """A line per tool, the first one ours: the others are compared with it. `peak` in FLOP/s."""
    runs = {name: [o for o in outcomes if o.tool == name] for name in dict.fromkeys(o.tool for o in outcomes)}
    ours = next(iter(runs.values()))
    lines = []
    for name, its in runs.items():
        speed = _median(o.tokens_per_second for o in its)
        lines.append(
            Line(
                tool=name,
                how=hows[name],
                tokens_per_second=speed,
                supervised_per_second=_median(o.supervised_per_second for o in its),
                ratio=_median(
                    a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, its, strict=False)
                ),
                share=speed * flops_per_token / peak,
                peak_bytes=_median(o.peak_bytes for o in its),
                start_up=_median(o.start_up for o in its),
                agrees=agreements.get(name, "-"),
            )
        )
    return lines


def as_markdown(lines: Iterable[Line]) -> str:
    """A table whose columns are as wide as they need to be."""
    cells = [HEADINGS, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    texts = [_row(row, widths) for row in cells]
    rule = "|" + "|".join("-" * (w + 1) + (":" if 1 < i < 8 else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(w) if 1 < i < 8 else cell.ljust(w)
        for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
