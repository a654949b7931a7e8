"""The pictures of data_examples/, drawn by code: python -m tests.data.drawn"""

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parents[2] / "data_examples" / "images"
_SIZE = (112, 84)  # pixels: 12 tokens of GLM-4.1V
_RED, _BLUE, _GREEN, _GREY = "#d33f32", "#2b5bd7", "#2f8f5b", "#5d6874"


def _circle(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((26, 12, 86, 72), fill=_RED)


def _square(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((41, 27, 71, 57), fill=_BLUE)


def _triangle(draw: ImageDraw.ImageDraw) -> None:
    draw.polygon(((56, 10), (92, 72), (20, 72)), fill=_GREEN)


def _chart(draw: ImageDraw.ImageDraw) -> None:
    """Four bars, the third of them the highest."""
    for place, height in enumerate((24, 38, 60, 46)):
        left = 18 + 20 * place
        draw.rectangle((left, 72 - height, left + 12, 72), fill=_BLUE)
    draw.line((12, 73, 100, 73), fill=_GREY, width=2)


PICTURES: Mapping[str, Callable[[ImageDraw.ImageDraw], None]] = {
    "circle.png": _circle,
    "square.png": _square,
    "triangle.png": _triangle,
    "chart.png": _chart,
}


def drawn(name: str) -> Image.Image:
    """One of them, on white."""
    picture = Image.new("RGB", _SIZE, "white")
    PICTURES[name](ImageDraw.Draw(picture))
    return picture


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name in PICTURES:
        drawn(file_name).save(FOLDER / file_name, optimize=True)
