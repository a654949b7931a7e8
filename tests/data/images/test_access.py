"""Where images may come from; what is refused stands in bad_images.py."""

import base64
import pickle
from pathlib import Path

import pytest

from finetune.chat.messages import Image
from finetune.data.images.access import Access, settled
from finetune.data.images.wrong import WrongImageError

NOWHERE = Access(())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cat.png", "data/cat.png"),
        ("./images/../cat.png", "data/cat.png"),
        ("images/a cat:1 猫%20.png", "data/images/a cat:1 猫%20.png"),
        ("{data}/cat.png", "data/cat.png"),
        ("file://{data}/a%20cat.png", "data/a cat.png"),
        ("file://localhost{data}/cat.png", "data/cat.png"),
        ("file:{data}/cat.png", "data/cat.png"),
        ("FILE://{data}/cat.png", "data/cat.png"),
        ("../shared/cat.png", "shared/cat.png"),
        ("{data}/../shared/cat.png", "shared/cat.png"),
        ("link.png", "data/cat.png"),
        ("inwards/cat.png", "shared/cat.png"),
    ],
)
def test_a_path_within_the_folders_becomes_whole(tmp_path: Path, written: str, meant: str) -> None:
    folder, shared = tmp_path / "data", tmp_path / "shared"
    folder.mkdir()
    shared.mkdir()
    (folder / "link.png").symlink_to("cat.png")
    (folder / "inwards").symlink_to(shared)
    image = Image(written.replace("{data}", str(folder)), offset=7, at=("images", 0))
    found = settled(image, folder, Access((shared,)))
    assert (found, found.at) == (Image(str(tmp_path / meant), offset=7), ("images", 0))


def test_the_folders_may_be_links_themselves(tmp_path: Path) -> None:
    (tmp_path / "true").mkdir()
    (tmp_path / "link").symlink_to("true")
    for beside, access in ((tmp_path / "link", NOWHERE), (tmp_path, Access((tmp_path / "link",)))):
        assert settled(Image(f"{tmp_path}/link/cat.png"), beside, access).path == f"{tmp_path}/true/cat.png"


def test_a_folder_of_the_working_directory_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settled(Image("cat.png"), Path(), NOWHERE).path == f"{tmp_path}/cat.png"
    assert settled(Image("cat.png"), Path("data"), NOWHERE).path == f"{tmp_path}/data/cat.png"


def test_the_root_of_all_folders_allows_every_path(tmp_path: Path) -> None:
    assert settled(Image("/etc/hostname"), tmp_path, Access((Path("/"),))).path == "/etc/hostname"


def test_settling_twice_changes_nothing(tmp_path: Path) -> None:
    once = settled(Image("cat.png"), tmp_path, NOWHERE)
    assert settled(once, tmp_path, NOWHERE) == once


@pytest.mark.parametrize("address", ["https://example.org/cat.png?size=1", "HTTP://EXAMPLE.ORG/"])
def test_an_address_passes_where_it_is_allowed(tmp_path: Path, address: str) -> None:
    assert settled(Image(address), tmp_path, Access((), remote=True)) == Image(address)


def test_a_data_url_becomes_its_bytes(tmp_path: Path) -> None:
    text = base64.b64encode(b"an image").decode()
    for start in ("data:image/png;base64", "DATA:;base64"):
        assert settled(Image(f"{start},{text}"), tmp_path, NOWHERE) == Image(data=b"an image")


def test_bytes_pass(tmp_path: Path) -> None:
    assert settled(Image(data=b"x", offset=3), tmp_path, NOWHERE) == Image(data=b"x", offset=3)


def test_a_mistake_survives_the_way_between_processes() -> None:
    found = pickle.loads(pickle.dumps(WrongImageError("E310", "cat.png: why")))
    assert (type(found), found.code, found.reason, str(found)) == (
        WrongImageError,
        "E310",
        "cat.png: why",
        "cat.png: why",
    )
