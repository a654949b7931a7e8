"""What the vision demo teaches and asks: pictures that can be counted by eye, and questions that need them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from finetune.demo import looking
from finetune.demo.pictures import COLOURS, COUNTS, SCENES, SHAPES, SIDE, Scene, draw
from finetune.disk import sha256_of

TRAIN, TEST = looking.house_rows("train"), looking.house_rows("test")


def scenes_in(rows: list[looking.Row]) -> set[Scene]:
    return {scene for row in rows for scene in looking.pictures_of(row)}


def things_in(picture: Image.Image) -> list[tuple[int, int, int, int, int]]:
    """Of every patch of one colour that is not the paper's: left, top, right, bottom, and how many pixels."""
    paper, found = picture.getpixel((0, 0)), []
    left = {(x, y) for x in range(SIDE) for y in range(SIDE) if picture.getpixel((x, y)) != paper}
    while left:
        thing, edge = set(), [left.pop()]
        while edge:
            x, y = edge.pop()
            thing.add((x, y))
            beside = {(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)} & left
            left -= beside
            edge += beside
        across, down = [x for x, _ in thing], [y for _, y in thing]
        found.append((min(across), min(down), max(across), max(down), len(thing)))
    return found


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_a_picture_shows_as_many_things_of_its_colour_and_shape_as_it_says(scene: Scene) -> None:
    # the part of its box that a shape fills: a disc pi / 4, a square all, a triangle half
    filled = {"circle": 0.785, "square": 1.0, "triangle": 0.5}[scene.shape]
    for seed in "abc":
        picture = draw(scene, seed)
        assert picture.size == (SIDE, SIDE)
        assert {colour for _, colour in picture.getcolors()} == {
            picture.getpixel((0, 0)),
            COLOURS[scene.colour],
        }
        things = things_in(picture)
        assert len(things) == scene.count
        for left, top, right, bottom, pixels in things:
            assert pixels / ((right - left + 1) * (bottom - top + 1)) == pytest.approx(filled, abs=0.06)


def test_a_picture_is_the_same_each_time_and_another_with_another_seed() -> None:
    one, again, other = (draw(SCENES[0], seed) for seed in ("1", "1", "2"))
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_scenes_are_told_in_plain_english() -> None:
    assert [str(Scene(1, "red", "circle")), str(Scene(3, "blue", "square"))] == [
        "1 red circle",
        "3 blue squares",
    ]


def test_the_test_shows_only_scenes_that_training_never_shows() -> None:
    shown, asked, named = scenes_in(TRAIN), scenes_in(TEST), scenes_in(looking.base_rows())
    assert len(shown) == 36 and len(asked) == 12 and not shown & asked
    assert {scene.count for scene in named} == {1}


@pytest.mark.parametrize(("part", "values"), [("count", COUNTS), ("colour", COLOURS), ("shape", SHAPES)])
def test_every_count_colour_and_shape_is_tested_equally_often(part: str, values: list[object]) -> None:
    tested = Counter(getattr(scene, part) for scene in scenes_in(TEST))
    assert tested == dict.fromkeys(values, 12 // len(values))


def test_the_same_answer_to_everything_is_seldom_right() -> None:
    answers = Counter(answer for row in TEST for answer in looking.answers_of(row))
    assert max(answers.values()) / answers.total() < 0.08


def test_pictures_are_shown_on_any_turn_one_or_two_and_some_rows_have_none() -> None:
    def shown(rows: list[looking.Row]) -> set[str]:
        counts = [[len(looking.pictures_of({"messages": [one]})) for one in row["messages"]] for row in rows]
        return {"".join(map(str, count)) for count in counts}

    assert shown(TEST) == {"10", "0010", "1010", "20"}
    assert shown(TRAIN) == {"10", "0010", "1010", "20", "00"}


def test_which_has_more_is_answered_by_what_is_in_the_pictures() -> None:
    rows = [row for row in TRAIN if looking.answers_of(row)[0].startswith("The ") and looking.pictures_of(row)]
    assert len(rows) == 9 * 36
    for row in rows:
        first, second = looking.pictures_of(row)
        where, most = ("first", first) if first.count > second.count else ("second", second)
        assert looking.answers_of(row) == [f"The {where}: {most}."]


def test_drawn_rows_have_paths_and_every_picture_lies_there(tmp_path: Path) -> None:
    rows = looking.drawn(TEST[::7], tmp_path, "test")
    paths = [path for row in rows for path in looking.pictures_of(row)]
    assert len(set(paths)) == len(paths) == sum(1 for _ in (tmp_path / "pictures").iterdir())
    for path, scene in zip(
        paths, (scene for row in TEST[::7] for scene in looking.pictures_of(row)), strict=True
    ):
        with Image.open(tmp_path / path) as picture:
            assert len(things_in(picture)) == scene.count
    assert json.loads(json.dumps(rows)) == rows


def test_drawing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        looking.drawn(TEST[:20], tmp_path / name, "test")
    one, two = (
        {path.name: sha256_of(path) for path in (tmp_path / name / "pictures").iterdir()}
        for name in ("one", "two")
    )
    assert one == two


def test_swapped_rows_have_the_pictures_of_a_row_whose_answers_are_all_others(
    tmp_path: Path,
) -> None:
    rows = looking.drawn(TEST, tmp_path, "test")
    owners = {tuple(looking.pictures_of(row)): row for row in rows}
    for row, other in zip(rows, looking.swapped(rows), strict=True):
        owner = owners[tuple(looking.pictures_of(other))]
        pairs = zip(looking.answers_of(owner), looking.answers_of(row), strict=True)
        assert all(one != another for one, another in pairs)
        own = iter(looking.pictures_of(row))
        assert looking._with_pictures(other, lambda _, own=own: next(own)) == row


def test_share_right_counts_answers_that_are_the_reference_to_the_letter(tmp_path: Path) -> None:
    pairs = [
        ("3 red circles.", "3 red circles."),
        ("3 red circles.", "3 red circles"),
        ("1.", "2."),
        ("é", "é"),
    ]
    lines = [json.dumps({"prediction": one, "reference": two}) for one, two in pairs]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert looking.share_right(tmp_path / "predictions.jsonl") == 0.5
