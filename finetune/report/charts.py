"""Curves as inline SVG: axes, gridlines, tick labels, and figures under the pointer, without a script."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import Literal

from finetune.report.markup import Html, element, join
from finetune.report.read import spread
from finetune.report.scale import Axis, figure, step_axis, value_axis

Points = Sequence[tuple[float, float | None]]
Scaled = Callable[[float], float]
Colour = Literal["one", "two", "three"]

LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 37  # room around the plot, in units of the drawing
MOST_POINTS = 600  # of one line; more would only make the file larger
MOST_SPREAD_DOTS = 120  # of a line whose every point is a dot
MOST_MEANS = 4000  # of a line's stretches, before their neighbours are taken in
MOST_TIPS = 80
MOST_DOTS = 12  # of a line; with more of them it speaks for itself
SMOOTH_FROM = 25  # points; fewer are shown as they are


@dataclass(frozen=True, slots=True)
class Series:
    """One curve. `mark` line: joined points; noisy: pale, with its mean over it; dots: joined by dashes.

    The mark tells two curves apart for those who do not see the colour.
    """

    name: str
    points: Points
    colour: Colour = "one"
    mark: Literal["line", "noisy", "dots"] = "line"


Known = Sequence[tuple[Series, dict[float, float | None]]]


@dataclass(frozen=True, slots=True)
class _Plot:
    """Where things stand in a drawing of `width` by `height`."""

    width: int
    height: int
    across: Axis
    up: Axis

    def x(self, step: float) -> float:
        return round(LEFT + self.across.place(step) * (self.width - LEFT - RIGHT), 2)

    def y(self, value: float) -> float:
        return round(self.height - BOTTOM - self.up.place(value) * (self.height - TOP - BOTTOM), 2)


def line_chart(
    title: str, series: Sequence[Series], *, width: int = 400, height: int = 220, tips: bool = True
) -> Html | None:
    """All `series` over optimizer steps; None where no finite value is in them.

    `tips` False leaves out the figures that show under a pointer.
    """
    values = [value for one in series for _, value in one.points if value is not None]
    steps = [step for one in series for step, _ in one.points]
    if not values:
        return None
    plot = _Plot(width, height, step_axis(min(steps), max(steps), width // 80), value_axis(values))
    return element(
        "svg",
        element("title", _summary(title, series)),
        _grid(plot),
        [_curve(plot, one) for one in series],
        [_missing(plot, one) for one in series],
        _tips(plot, series) if tips else None,
        viewBox=f"0 0 {width} {height}",
        role="img",
        class_="chart",
    )


def is_logarithmic(series: Sequence[Series]) -> bool:
    """Whether `line_chart` draws these on a logarithmic axis."""
    values = [value for one in series for _, value in one.points if value is not None]
    return bool(values) and value_axis(values).logarithmic


def _summary(title: str, series: Sequence[Series]) -> str:
    """What a screen reader says, and what stands under the pointer outside the plot."""
    parts = []
    for one in series:
        finite = [value for _, value in one.points if value is not None]
        if finite:
            parts.append(f"{one.name} from {figure(finite[0])} to {figure(finite[-1])}")
    return f"{title}: {', '.join(parts)}"


def _grid(plot: _Plot) -> Html:
    """Gridlines and tick labels; the step axis is named at its right end, in a row of its own."""
    right, bottom = plot.width - RIGHT, plot.height - BOTTOM
    parts = []
    for value, label in plot.up.ticks:
        y = plot.y(value)
        parts.append(_line(LEFT, y, right, y, "grid"))
        parts.append(_text(LEFT - 7, y + 4, label, "tick end"))
    for step, label in plot.across.ticks:
        parts.append(_line(plot.x(step), bottom, plot.x(step), bottom + 4, "axis"))
        parts.append(_text(plot.x(step), bottom + 17, label, "tick middle"))
    parts.append(_line(LEFT, bottom, right, bottom, "axis"))
    parts.append(_text(right, bottom + 33, "optimizer step", "tick end"))
    return join(parts)


def _curve(plot: _Plot, series: Series) -> Html:
    if series.mark == "dots":
        points = thinned(series.points, MOST_SPREAD_DOTS)
        dots = [_dot(plot, step, value, series.colour) for step, value in points if value is not None]
        return join([_path(plot, points, f"{series.colour} dashed"), *dots])
    points = thinned(series.points)
    if series.mark == "line" or len(series.points) < SMOOTH_FROM:
        dots = [_dot(plot, step, value, series.colour) for step, value in points if value is not None]
        return join([_path(plot, points, series.colour), *(dots if len(dots) <= MOST_DOTS else ())])
    smooth = thinned(smoothed(series.points, logarithmic=plot.up.logarithmic))
    return join([_path(plot, points, f"{series.colour} raw"), _path(plot, smooth, series.colour)])


def smoothed(points: Points, *, logarithmic: bool = False) -> list[tuple[float, float | None]]:
    """The mean of each point and its neighbours on both sides, so that nothing lags behind.

    Of more than `MOST_MEANS` points, the means of as many stretches. `logarithmic`: the geometric mean, of
    positive values; what the eye takes for the middle on such an axis.
    """
    to, back = (log, exp) if logarithmic else (float, float)
    points = _means(points, to, back)
    sums, counts = [0.0], [0]
    for _, value in points:
        sums.append(sums[-1] + (0.0 if value is None else to(value)))
        counts.append(counts[-1] + (value is not None))
    reach = max(2, len(points) // 40)
    result: list[tuple[float, float | None]] = []
    for i, (step, value) in enumerate(points):
        start, stop = max(0, i - reach), min(len(points), i + reach + 1)
        mean = (sums[stop] - sums[start]) / max(counts[stop] - counts[start], 1)
        result.append((step, None if value is None else back(mean)))
    return result


def _means(points: Points, to: Scaled, back: Scaled) -> Points:
    """Of stretches of the same length, so that there are `MOST_MEANS` at most; each stands at its last step."""
    length = -(-len(points) // MOST_MEANS)
    if length <= 1:
        return points
    result: list[tuple[float, float | None]] = []
    for start in range(0, len(points), length):
        stretch = points[start : start + length]
        finite = [to(value) for _, value in stretch if value is not None]
        result.append((stretch[-1][0], back(sum(finite) / len(finite)) if finite else None))
    return result


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float | None]]:
    """At most about `most` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    kept: list[tuple[float, float | None]] = []
    length = -(-2 * len(points) // most)
    for start in range(0, len(points), length):
        finite = [(step, value) for step, value in points[start : start + length] if value is not None]
        if finite:
            ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])}
            kept += sorted(ends)
    return kept


def _path(plot: _Plot, points: Points, classes: str) -> Html:
    """Broken where a value is not finite."""
    commands, pen_down = [], False
    for step, value in points:
        if value is not None:
            commands.append(f"{'L' if pen_down else 'M'}{plot.x(step):g} {plot.y(value):g}")
        pen_down = value is not None
    return element("path", d="".join(commands), class_=f"curve {classes}")


def _missing(plot: _Plot, series: Series) -> Html:
    """A cross at the upper edge for each step whose value is not finite, with that said in words."""
    crosses = []
    for step, _ in [point for point in series.points if point[1] is None][:50]:
        told = element("title", f"{series.name} at step {step:,.0f}: not finite")
        crosses.append(element("text", "×", told, x=plot.x(step), y=TOP + 4, class_="missing middle"))
    return join(crosses)


def _tips(plot: _Plot, series: Sequence[Series]) -> Html:
    """Invisible columns over the plot; the one under the pointer shows its step and values."""
    steps = sorted({step for one in series for step, value in one.points if value is not None})
    dotted = {step for one in series if one.mark == "dots" for step, value in one.points if value is not None}
    picked = sorted({*spread(steps, MOST_TIPS), *(dotted if len(dotted) <= MOST_TIPS else ())})
    borders = [(a + b) / 2 for a, b in pairwise(picked)]
    edges = [plot.across.low, *borders, plot.across.high]
    known = [(one, dict(one.points)) for one in series]
    return join(_tip(plot, known, step, edges[i], edges[i + 1]) for i, step in enumerate(picked))


def _tip(plot: _Plot, known: Known, step: float, start: float, end: float) -> Html:
    here = [(one, value) for one, points in known if (value := points.get(step)) is not None]
    labels = [f"step {step:,.0f}", *(f"{one.name} {figure(value)}" for one, value in here)]
    left, right = plot.x(start), plot.x(end)
    column = element(
        "rect", x=left, y=TOP, width=max(right - left, 1), height=plot.height - TOP - BOTTOM, class_="column"
    )
    shown = element(
        "g",
        _line(plot.x(step), TOP, plot.x(step), plot.height - BOTTOM, "guide"),
        [_dot(plot, step, value, one.colour) for one, value in here],
        _bubble(plot, plot.x(step), labels),
        class_="shown",
    )
    return element("g", column, shown, class_="at")


def _bubble(plot: _Plot, x: float, labels: Sequence[str]) -> Html:
    """A box with a line of text each, on the side of `x` where there is more room."""
    width = 7 * max(map(len, labels)) + 16  # about, for text of 12 units
    left = x + 10 if x < plot.width / 2 else x - 10 - width
    box = element("rect", x=left, y=TOP, width=width, height=17 * len(labels) + 10, rx=6, class_="bubble")
    return join([box, *(_text(left + 8, TOP + 17 + 17 * i, label, "") for i, label in enumerate(labels))])


def _line(x1: float, y1: float, x2: float, y2: float, classes: str) -> Html:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=classes)


def _text(x: float, y: float, content: str, classes: str) -> Html:
    return element("text", content, x=x, y=y, class_=classes)


def _dot(plot: _Plot, step: float, value: float, colour: Colour) -> Html:
    return marker(plot.x(step), plot.y(value), colour)


def marker(x: float, y: float, colour: Colour) -> Html:
    """A circle, a square or a triangle: each colour has its own shape."""
    if colour == "one":
        return element("circle", cx=x, cy=y, r=3.6, class_="dot one")
    if colour == "two":
        return element("rect", x=x - 3.4, y=y - 3.4, width=6.8, height=6.8, class_="dot two")
    return element("path", d=f"M{x:g} {y - 4.4:g}l4.4 7.8h-8.8z", class_="dot three")


def swatch(series: Series) -> Html:
    """How a curve is drawn, for the legend."""
    dots = series.mark == "dots"
    path = element("path", d="M1 6H25", class_=f"curve {series.colour}{' dashed' if dots else ''}")
    mark = marker(13, 6, series.colour) if dots else None
    return element("svg", path, mark, viewBox="0 0 26 12", class_="swatch", aria_hidden="true")
