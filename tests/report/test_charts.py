"""Axes and curves, as tables to check by eye."""

import math

import pytest

from finetune.report.charts import MOST_MEANS, Colour, Series, line_chart, marker, smoothed, thinned
from finetune.report.scale import figure, step_axis, tick_text, value_axis


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.4, 3.2], "0 1 2 3 4"),
        ([2.1, 2.9], "2.0 2.2 2.4 2.6 2.8 3.0"),
        ([0.0, 0.0005], "0 2e-4 4e-4 6e-4"),
        ([5.0, 5.0], "0 2 4 6 8"),
        ([0.0], "0 0.5 1.0"),
        ([-1.0, 1.0], "-1.0 -0.5 0 0.5 1.0"),
        ([11_000, 12_900], "11k 11.5k 12k 12.5k 13k"),
        ([0.1] * 9 + [400.0], "0.1 1 10 100 1,000"),
    ],
)
def test_gridlines_stand_at_round_values(values: list[float], labels: str) -> None:
    axis = value_axis(values)
    assert " ".join(label for _, label in axis.ticks) == labels
    assert all(0 <= axis.place(value) <= 1 for value in values)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1, 300, "50 100 150 200 250 300"),
        (1, 3000, "500 1,000 1,500 2,000 2,500 3,000"),
        (1, 3, "1 2 3"),
        (7, 7, "6 7 8"),
    ],
)
def test_steps_are_whole_numbers(low: float, high: float, labels: str) -> None:
    assert " ".join(label for _, label in step_axis(low, high).ticks) == labels


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[(0, "0"), (0.00004, "4e-5"), (0.0312, "0.0312"), (3.14159, "3.142"), (27.46, "27.5")],
        *[(1234.5, "1,234"), (12_345, "12.3k"), (4_560_000, "4.56M"), (9.4e9, "9.4G"), (999_900, "1000k")],
    ],
)
def test_figures_read_as_a_person_writes_them(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_ticks_have_the_decimals_their_step_needs() -> None:
    assert [tick_text(v, s) for v, s in ((1.5, 0.5), (2, 1), (0.25, 0.05), (15_000, 5_000))] == [
        *("1.5", "2", "0.25", "15k")
    ]


def test_thinning_keeps_the_spikes() -> None:
    points = [(float(i), 50.0 if i == 7_777 else -3.0 if i == 12_345 else 1.0) for i in range(20_000)]
    kept = thinned(points, 100)
    assert len(kept) <= 200
    assert (7_777.0, 50.0) in kept and (12_345.0, -3.0) in kept
    assert kept == sorted(kept)


def test_thinning_leaves_a_short_curve_as_it_is() -> None:
    points = [(1.0, 2.0), (2.0, None), (3.0, 1.0)]
    assert thinned(points) == points


def test_smoothing_does_not_lag_and_keeps_gaps() -> None:
    rising = [(float(i), float(i)) for i in range(200)]
    middle = smoothed(rising)[50:150]
    assert all(value == pytest.approx(step) for step, value in middle)
    assert smoothed([(1.0, None), (2.0, 4.0)]) == [(1.0, None), (2.0, 4.0)]


def test_a_long_curve_is_drawn_small_and_keeps_its_spikes_and_its_mean() -> None:
    points = [(float(step), 9.0 if step == 31_337 else float(step % 2)) for step in range(100_000)]
    assert max(value for _, value in thinned(points)) == 9
    middle = smoothed(points)
    assert len(middle) <= MOST_MEANS and all(value == pytest.approx(0.5, abs=0.01) for _, value in middle)
    for mark in ("noisy", "dots", "line"):
        drawn = str(line_chart("a", [Series("b", points, mark=mark)]))
        assert len(drawn) < 120_000


def test_a_logarithmic_curve_is_smoothed_as_it_is_seen() -> None:
    spike = [(float(i), 100.0 if i == 10 else 1.0) for i in range(21)]
    assert smoothed(spike, logarithmic=True)[10][1] == pytest.approx(100 ** (1 / 5))


def test_a_curve_is_broken_where_a_value_is_not_finite_and_a_cross_stands_there() -> None:
    drawing = line_chart("Loss", [Series("loss", [(1, 1.0), (2, 2.0), (3, None), (4, 1.0)])])
    assert drawing is not None
    path = drawing.split('d="')[1].split('"')[0]
    assert path.count("M") == 2 and path.count("L") == 1
    assert "loss at step 3: not finite" in drawing


def test_a_single_point_is_a_dot() -> None:
    drawing = line_chart("Loss", [Series("loss", [(1, 1.0)])], tips=False)
    assert drawing is not None and drawing.count("<circle") == 1


def test_nothing_finite_draws_nothing() -> None:
    assert line_chart("Loss", [Series("loss", [(1, None)]), Series("eval loss", [])]) is None


def test_every_number_of_a_drawing_is_finite() -> None:
    points = [(float(i), math.exp(i / 3) * 1e-9) for i in range(100)]
    drawing = line_chart(
        "Loss", [Series("loss", points, mark="noisy"), Series("eval", points[::9], "two", "dots")]
    )
    assert drawing is not None
    assert "nan" not in drawing and "inf" not in drawing


def test_the_drawing_says_in_words_what_it_shows() -> None:
    drawing = line_chart("Loss", [Series("loss", [(1, 3.0), (2, 1.5)])])
    assert drawing is not None and "<title>Loss: loss from 3 to 1.500</title>" in drawing


@pytest.mark.parametrize(("colour", "shape"), [("one", "<circle"), ("two", "<rect"), ("three", '<path d="M')])
def test_each_colour_has_a_shape_of_its_own(colour: Colour, shape: str) -> None:
    assert marker(5, 5, colour).startswith(shape)
