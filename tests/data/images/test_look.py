"""What looking at an image gives, what it remembers, and what it keeps."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.chat.messages import Image
from finetune.data.images import look as room
from finetune.data.images.look import look
from finetune.data.images.picture import Picture
from finetune.data.images.pixels import pixels
from finetune.data.images.wrong import WrongImageError
from tests.data.images.bad_images import cut_off, damaged, several, too_large, unshown
from tests.data.images.files import flag, noise, saved, turned, whole


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "finetune" / "images"


def test_a_picture_tells_its_path_its_hash_and_its_size(tmp_path: Path) -> None:
    content = turned("JPEG", 6)
    (tmp_path / "cat.jpg").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert look(Image(f"{tmp_path}/cat.jpg")) == Picture(f"{tmp_path}/cat.jpg", digest, 48, 32)


def test_the_name_of_a_file_says_nothing_of_its_format(tmp_path: Path) -> None:
    for name in ("cat.png", "cat.txt", "cat"):
        (tmp_path / name).write_bytes(whole()["jpeg"])
        assert look(Image(f"{tmp_path}/{name}")).width == 48


def test_bytes_are_kept_in_the_cache(cache: Path) -> None:
    content = whole()["png"]
    digest = hashlib.sha256(content).hexdigest()
    picture = look(Image(data=content))
    assert picture == Picture(str(cache / digest[:2] / digest), digest, 48, 32)
    assert Path(picture.path).read_bytes() == content
    assert pixels(picture).tobytes() == noise().tobytes()


def test_bytes_that_are_kept_are_written_once(cache: Path) -> None:
    path = Path(look(Image(data=whole()["png"])).path)
    before = path.stat()
    look(Image(data=whole()["png"]))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [file for file in cache.rglob("*") if file.is_file()] == [path]


def test_a_damaged_file_of_the_cache_is_written_again(cache: Path) -> None:
    content = whole()["png"]
    path = Path(look(Image(data=content)).path)
    path.write_bytes(content[:-1] + b"x")
    assert look(Image(data=content)).path == str(path)
    assert path.read_bytes() == content


def test_bytes_that_are_no_image_are_not_kept(cache: Path) -> None:
    with pytest.raises(WrongImageError):
        look(Image(data=b"<html>"))
    assert not cache.exists()


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(saved("PNG", flag()))
    first = look(Image(str(path)))
    before = room._in_file.cache_info()
    assert look(Image(str(path), offset=9)) is first
    assert room._in_file.cache_info().misses == before.misses
    path.write_bytes(saved("PNG", flag().resize((10, 20))))
    assert (look(Image(str(path))).width, look(Image(str(path))).height) == (10, 20)


def test_a_mistake_is_found_once_and_told_each_time(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(whole()["png"][:500])
    told = []
    for _ in range(2):
        with pytest.raises(WrongImageError) as error:
            look(Image(str(path)))
        told.append(error.value.reason)
        before = room._in_file.cache_info().misses
    assert told[0] == told[1] and room._in_file.cache_info().misses == before
    path.write_bytes(whole()["png"])
    assert look(Image(str(path))).width == 48


def test_a_file_that_grows_unreadable_between_two_looks_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(whole()["png"])
    look(Image(str(path)))
    path.unlink()
    with pytest.raises(WrongImageError, match="no such file"):
        look(Image(str(path)))


QUIET = """
import sys, warnings
from pathlib import Path
from finetune.chat.messages import Image
from finetune.data.images.look import look
from finetune.data.images.pixels import pixels
from finetune.data.images.wrong import WrongImageError

for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        pixels(look(Image(str(path))))
    except WrongImageError:
        print(path.name)
warnings.warn("others are heard")
"""


def test_no_library_writes_on_the_screen_about_images(tmp_path: Path) -> None:
    """Neither PIL, by Python's warnings and logging, nor libtiff, past them."""
    for kind in (cut_off, damaged, too_large, several, unshown):
        for case in kind():
            case.make(tmp_path)
    bad = len(list(tmp_path.iterdir()))
    for name, content in whole().items():
        (tmp_path / f"good.{name}").write_bytes(content)
    large = flag().convert("1").resize((9500, 9500))
    large.save(tmp_path / "good.90-megapixels.png")
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", QUIET, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert len(done.stdout.splitlines()) == bad > 150
    assert done.stderr == "<string>:14: UserWarning: others are heard\n"
