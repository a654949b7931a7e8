"""What a run logged, read line by line into columns: sixteen bytes a value, however long the run was."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Point = tuple[float, float | None]


def number(value: object) -> float | None:
    """A finite number, or None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e300 < value < 1e300 else None


@dataclass(slots=True)
class Metrics:
    """The curves of metrics.jsonl, by name. `last_step`: the highest one logged; 0 where nothing was."""

    last_step: float = 0.0
    _columns: dict[str, "tuple[array[float], array[float]]"] = field(default_factory=dict)
    _curves: dict[str, list[Point]] = field(default_factory=dict)

    def add(self, line: Mapping[str, Any]) -> None:
        """A line without a step is no point of any curve."""
        step = number(line.get("step"))
        if step is None:
            return
        self.last_step = max(self.last_step, step)
        for name, value in line.items():
            found = number(value)
            steps, values = self._columns.setdefault(name, (array("d"), array("d")))
            steps.append(step)
            values.append(float("nan") if found is None else found)

    @property
    def names(self) -> list[str]:
        return sorted(self._columns)

    def curve(self, name: str) -> list[Point]:
        """(step, value) wherever there is one, in the order of steps; None where the value is not finite.

        Where a step was logged twice (a run that was resumed), the later line counts.
        """
        if name not in self._curves:
            steps, values = self._columns.get(name, (array("d"), array("d")))
            points = dict(zip(steps, values, strict=True))
            self._curves[name] = [
                (step, value if value == value else None) for step, value in sorted(points.items())
            ]
        return self._curves[name]

    def values(self, name: str) -> list[float]:
        """The finite values of a curve, in the order of steps."""
        return [value for _, value in self.curve(name) if value is not None]
