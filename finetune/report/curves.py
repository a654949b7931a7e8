"""The panels of curves: which are drawn, what stands above each."""

import re
from collections.abc import Sequence

from finetune.report.charts import Colour, Series, is_logarithmic, line_chart, swatch
from finetune.report.markup import Html, element, join
from finetune.report.metrics import Metrics
from finetune.report.scale import figure

COLOURS: tuple[Colour, ...] = ("one", "two", "three")
Panel = tuple[str, Sequence[Series]]
# By the number of panels in a row: text in an SVG shrinks with it, so each is drawn for the room it gets.
# A phone gets a drawing of its own for the same reason.
SIZES = {1: (1060, 320), 2: (500, 240), 3: (322, 200)}


def curves(metrics: Metrics) -> Html | None:
    """Loss over the whole width, then how the training went, then the scores of the evaluations."""
    loss = [
        Series("loss", metrics.curve("loss"), mark="noisy"),
        Series("eval loss", metrics.curve("eval_loss"), "two", "dots"),
    ]
    work = [
        Series("learning rate", metrics.curve("learning_rate")),
        Series("gradient norm", metrics.curve("grad_norm"), mark="noisy"),
        Series("tokens per second", metrics.curve("tokens_per_second"), mark="noisy"),
    ]
    rows: list[list[Panel]] = [
        [("Loss, nats per supervised token", loss)],
        [(one.name.capitalize(), [one]) for one in work],
        _score_families(metrics),
    ]
    drawn = [row for row in map(_row, rows) if row is not None]
    return join(drawn) if drawn else None


def _score_families(metrics: Metrics) -> list[Panel]:
    """One panel per family of scores: rouge-1, -2 and -l share an axis, and so do the files of one score."""
    names = [name for name in metrics.names if name.startswith("eval_") and name != "eval_loss"]
    families: dict[str, list[str]] = {}
    for name in names:
        metric, _, file = name.removeprefix("eval_").partition("/")
        family = f"{metric} by file" if file else re.split("[-_]", metric)[0]
        families.setdefault(family, []).append(name)
    return [
        (f"Evaluation: {family}", _family(metrics, members[i : i + len(COLOURS)]))
        for family, members in families.items()
        for i in range(0, len(members), len(COLOURS))
    ]


def _family(metrics: Metrics, names: Sequence[str]) -> list[Series]:
    return [
        Series(name.removeprefix("eval_"), metrics.curve(name), colour, "dots")
        for name, colour in zip(names, COLOURS, strict=False)
    ]


def _row(panels: list[Panel]) -> Html | None:
    """Panels side by side, those left out that have nothing to show."""
    present = [(label, [one for one in series if _has_values(one)]) for label, series in panels]
    shown = [(label, series) for label, series in present if series]
    size = SIZES[min(len(shown), max(SIZES))] if shown else None
    return element("div", [_panel(*panel, size) for panel in shown], class_="panels") if size else None


def _has_values(series: Series) -> bool:
    return any(value is not None for _, value in series.points)


def _panel(label: str, series: Sequence[Series], size: tuple[int, int]) -> Html:
    note = element("span", "log scale", class_="dim") if is_logarithmic(series) else None
    keys = element("span", [_key(one, alone=len(series) == 1) for one in series], class_="keys")
    heading = element("figcaption", element("strong", label), note, keys)
    broad = line_chart(label, series, width=size[0], height=size[1])
    narrow = line_chart(label, series, tips=False)
    drawings = [element("div", broad, class_="broad"), element("div", narrow, class_="narrow")]
    return element("figure", heading, drawings, class_="panel")


def _key(series: Series, *, alone: bool) -> Html:
    """How the curve is drawn, its name and its last value."""
    final = element("b", figure(next(value for _, value in reversed(series.points) if value is not None)))
    return element("span", *(["last ", final] if alone else [swatch(series), f" {series.name} ", final]))
