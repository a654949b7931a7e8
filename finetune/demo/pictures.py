"""The demo's pictures: one to four things of one colour and one shape, drawn from code and a seed.

A picture has four places, two by two; each thing stands somewhere in a place of its own, in a size of its own.
There are 4 x 4 x 3 scenes, so a guess is right one time in 48.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

SIDE = 56
"""Of a picture, in pixels."""
_PLACE = SIDE // 2
_SIZES = range(16, 25)  # of a thing, in pixels
_PAPER = range(232, 256)  # the grey of what is behind, from light to white

COUNTS = (1, 2, 3, 4)
COLOURS = {"red": (214, 40, 40), "green": (42, 157, 74), "blue": (38, 84, 204), "black": (30, 30, 30)}
SHAPES = ("circle", "square", "triangle")


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows."""

    count: int
    colour: str
    shape: str

    def __str__(self) -> str:
        """In words: 3 red circles."""
        return f"{self.count} {self.colour} {self.shape}{'s' if self.count > 1 else ''}"


SCENES: Sequence[Scene] = tuple(
    Scene(n, colour, shape) for n in COUNTS for colour in COLOURS for shape in SHAPES
)


def draw(scene: Scene, seed: str) -> Image.Image:
    """A picture of the scene; another seed puts its things elsewhere."""
    random = Random(seed)
    paper = random.choice(_PAPER)
    picture = Image.new("RGB", (SIDE, SIDE), (paper, paper, paper))
    brush = ImageDraw.Draw(picture)
    for place in random.sample(range(4), scene.count):
        size = random.choice(_SIZES)
        left, top = (_PLACE * (place // step % 2) + random.randint(1, _PLACE - size - 1) for step in (1, 2))
        _draw_thing(brush, scene, (left, top, left + size, top + size))
    return picture


def _draw_thing(brush: ImageDraw.ImageDraw, scene: Scene, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    colour = COLOURS[scene.colour]
    match scene.shape:
        case "circle":
            brush.ellipse(box, colour)
        case "square":
            brush.rectangle(box, colour)
        case "triangle":
            brush.polygon([(left, bottom), ((left + right) / 2, top), (right, bottom)], colour)


def write_picture(scene: Scene, file: Path) -> None:
    """Draw the scene into a PNG; the name of the file is the seed."""
    draw(scene, file.name).save(file)
