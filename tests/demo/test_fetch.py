"""Packages are fetched by the real pip, here from a folder (by npm and from an index: scripts/test --real)."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.demo.fetch import Package, fetched
from finetune.disk import sha256_of
from finetune.errors import FetchError

NAME, VERSION = "one-small-thing", "1.5"
FILES = {
    "one_small_thing/data/a.json": "[1]",
    "one_small_thing/data/more/b.json": "[2]",
    "one_small_thing/data/other/c.json": "[3]",
    "one_small_thing/code.py": "raise SystemExit('never run')",
    "one_small_thing-1.5.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n",
    "one_small_thing-1.5.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "one_small_thing-1.5.dist-info/RECORD": "",
}
KEPT = ("one_small_thing/data/*.json", "one_small_thing/data/more/*.json")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A wheel in a folder, which is the only place where pip looks."""
    archive = tmp_path / "index" / "one_small_thing-1.5-py3-none-any.whl"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{archive.parent}")
    monkeypatch.setenv("FINETUNE_REAL", f"{tmp_path / 'cache'}")
    size = archive.stat().st_size
    return Package("wheel", NAME, VERSION, "a thing", "MIT", size, sha256_of(archive), KEPT)


def files_below(folder: Path) -> dict[str, str]:
    return {f"{path.relative_to(folder)}": path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_wanted_is_kept_and_it_is_fetched_once(
    package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fetched(package)
    assert files_below(folder) == {"a.json": "[1]", "more/b.json": "[2]"}
    said = "fetching a thing: one-small-thing 1.5 by pip, 0 MB, MIT; kept in"
    assert said in "".join(capsys.readouterr())
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetched(package) == folder


Change = Callable[[Package], Package]
REFUSED: list[tuple[str, Change, str]] = [
    (
        "other bytes",
        lambda p: replace(p, sha256="0" * 64),
        "one-small-thing 1.5: pip brought one_small",
    ),
    (
        "no such version",
        lambda p: replace(p, version="9"),
        "pip cannot fetch it (ERROR: No matching",
    ),
    ("nothing in it", lambda p: replace(p, keep=("x/*.bin",)), "holds no x/*.bin"),
]


@pytest.mark.parametrize(("change", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_had_is_refused_in_a_sentence_and_leaves_nothing(
    package: Package, change: Change, said: str, tmp_path: Path
) -> None:
    with pytest.raises(FetchError) as refused:
        fetched(change(package))
    assert said in str(refused.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_missing_npm_is_named(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FetchError, match="npm is not installed; it fetches a thing"):
        fetched(replace(package, kind="npm"))
