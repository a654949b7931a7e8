"""Image files with bytes changed at random: each is a picture, of which all pixels are there, or a mistake."""

from collections import Counter
from random import Random

import pytest

from finetune.data.images.decode import decoded, size_of
from finetune.data.images.pixels import rgb
from finetune.data.images.wrong import WrongImageError
from tests.data.images.files import whole


def spoilt(content: bytes, random: Random) -> bytes:
    """One to eight bytes changed, removed or put in; half of the time near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 8)):
        place = random.randrange(min(len(changed), 100) if random.random() < 0.5 else len(changed))
        match random.randrange(4):
            case 0:
                del changed[place : place + random.randint(1, 4)]
            case 1:
                changed[place:place] = random.randbytes(random.randint(1, 4))
            case _:
                changed[place] = random.choice((0, 0x7F, 0xFF, random.randrange(256)))
    return bytes(changed)


def outcome(content: bytes) -> str:
    """The code of a mistake, or "" for a picture of which all pixels are there."""
    try:
        width, height = size_of(content, "spoilt")
    except WrongImageError as wrong:
        assert wrong.reason.startswith("spoilt: ")
        return wrong.code
    image = rgb(decoded(content, "spoilt"))
    assert image.mode == "RGB" and sorted(image.size) == sorted((width, height))
    return ""


def outcomes(name: str, count: int) -> Counter[str]:
    random = Random(name)
    return Counter(outcome(spoilt(whole()[name], random)) for _ in range(count))


@pytest.mark.parametrize("name", whole())
def test_a_spoilt_file_is_a_picture_or_a_mistake(name: str) -> None:
    found = outcomes(name, 60)
    assert set(found) <= {"", "E313", "E314", "E315", "E316", "E317"}
    assert found["E314"], "no file was damaged"


@pytest.mark.long
@pytest.mark.parametrize("name", whole())
def test_many_spoilt_files_are_pictures_or_mistakes(name: str) -> None:
    assert set(outcomes(name, 5000)) <= {"", "E313", "E314", "E315", "E316", "E317"}
