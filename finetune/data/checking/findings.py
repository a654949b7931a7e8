"""What is wrong or odd in data: all of it counted, the first places of each kind kept."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune.data.checking.problems import pages
from finetune.data.reading.record import Malformed

KEPT = 20
"""So many places of each code are remembered; the others are only counted."""

SHOWN = 3
"""So many of each code are shown on the screen."""


@dataclass(slots=True)
class Findings:
    """Mistakes (codes that begin with E) and warnings (W), by code."""

    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[Malformed]] = field(default_factory=dict)

    def add(self, finding: Malformed) -> None:
        self.counts[finding.code] += 1
        if self.counts[finding.code] <= KEPT:
            self.kept.setdefault(finding.code, []).append(finding)

    @property
    def errors(self) -> int:
        return sum(count for code, count in self.counts.items() if code.startswith("E"))

    @property
    def warnings(self) -> int:
        return self.counts.total() - self.errors

    def codes(self) -> list[str]:
        """Mistakes first, each kind in the order of its codes."""
        return sorted(self.counts)

    def lines(self) -> Iterator[str]:
        """For the screen: the first places of each code, and how many there are besides."""
        for code in self.codes():
            yield from map(str, self.kept[code][:SHOWN])
            more = self.counts[code] - SHOWN
            if more > 0:
                yield f"… {code} {more:,} times more: {_title(code)}"

    def as_dict(self) -> dict[str, Any]:
        """For --json: every code with its count and the places that were kept."""
        return {
            code: {"count": self.counts[code], "places": [one.as_dict() for one in self.kept[code]]}
            for code in self.codes()
        }


def _title(code: str) -> str:
    return pages()[code].splitlines()[0].partition(" ")[2]
