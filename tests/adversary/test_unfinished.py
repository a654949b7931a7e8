"""What a killed process leaves is swept by the next one; what is anybody else's, or still written, never is."""

import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune.disk import refuse_existing, unpublished, write_atomically
from finetune.errors import StorageError
from finetune.folder import write_json
from finetune.workspace import MARK, sweep, workspace


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def killed_in(work: Callable[[], None]) -> None:
    """Run `work`, which kills its process, in a child."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def publishes_and_dies(output: Path) -> None:
    with unpublished(output) as folder:
        (folder / "model.safetensors").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


STRANGERS = {
    "an empty folder": {"tmp-0123abcd/": ""},
    "a thesis": {"tmp-thesis/chapter1.txt": "years of work"},
    "an older version's name": {"tmp-3-abcd/model.safetensors": "half"},
    "a file": {"tmp-77-run.json": "{"},
    "a file by the mark's name, of somebody else": {
        f"tmp-finetune-89abcdef/{MARK}": "to do",
        "tmp-finetune-89abcdef/a.txt": "a",
    },
    "an empty mark": {f"tmp-notes/{MARK}": ""},
    "a folder by our kind of name": {"tmp-finetune-0123abcd/chapter1.txt": "years of work"},
    "an empty mark beside something": {f"tmp-finetune-0123abcd/{MARK}": "", "tmp-finetune-0123abcd/a.txt": "a"},
    "another mark": {f"tmp-finetune-0123abcd/{MARK}": "to do"},
    "a folder by the mark's name": {f"tmp-finetune-89abcdef/{MARK}/a.txt": "a"},
}


@pytest.mark.parametrize("files", STRANGERS.values(), ids=STRANGERS)
def test_nothing_of_anybody_else_is_touched(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in files.items():
        if name.endswith("/"):
            (tmp_path / name).mkdir()
            continue
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    sweep(tmp_path)
    write_atomically(tmp_path / "run.json", b"{}")
    assert {name: "" if name.endswith("/") else (tmp_path / name).read_text() for name in files} == files
    assert all((tmp_path / name).exists() for name in files)
    assert capsys.readouterr().err == ""


def test_a_link_to_an_unfinished_folder_is_left_alone(tmp_path: Path) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    killed_in(lambda: publishes_and_dies(elsewhere / "merged"))
    (left,) = elsewhere.glob("tmp-*")
    (here / "tmp-finetune-00000000").symlink_to(left)
    sweep(here)
    assert (left / "merged" / "model.safetensors").exists() and (here / "tmp-finetune-00000000").is_symlink()


def test_what_a_killed_process_left_goes_with_the_next_one_that_writes_beside_it_and_is_said_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_in(lambda: publishes_and_dies(tmp_path / "merged"))
    (left,) = tmp_path.glob("tmp-*")
    assert not (tmp_path / "merged").exists()
    write_atomically(tmp_path / "other.json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {"other.json"}
    assert f"{left}: removing" in capsys.readouterr().err


def test_what_a_live_process_writes_stays(tmp_path: Path) -> None:
    with unpublished(tmp_path / "merged") as folder:
        (folder / "config.json").write_text("{}")
        child = os.fork()
        if child == 0:
            sweep(tmp_path)
            os._exit(0)
        os.waitpid(child, 0)
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["config.json"]
    assert {path.name for path in tmp_path.iterdir()} == {"merged"}


def test_a_sweep_that_is_killed_leaves_what_the_next_one_knows(tmp_path: Path) -> None:
    """The mark goes last: whatever else is gone, it still says whose folder it is."""
    killed_in(lambda: publishes_and_dies(tmp_path / "merged"))
    (left,) = tmp_path.glob("tmp-*")
    (left / "merged" / "model.safetensors").unlink()
    sweep(tmp_path)
    assert not left.exists()


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    name = "n" * 255
    write_atomically(tmp_path / name, b"{}")
    with unpublished(tmp_path / "deep" / name) as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / name).is_file() and (tmp_path / "deep" / name / "a").is_file()


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_modes_are_what_the_umask_says(
    tmp_path: Path, umask: Callable[[int], int], mask: int, file: int, folder: int
) -> None:
    umask(mask)
    write_atomically(tmp_path / "run.json", b"{}")
    with unpublished(tmp_path / "merged") as made:
        (made / "deep").mkdir()
        (made / "deep" / "weights").write_text("w")
        (made / "deep" / "weights").chmod(0o600)  # as safetensors leaves its files
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"run.json": file, "merged": folder, "deep": folder, "weights": file}


def test_nothing_is_left_where_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError), workspace(tmp_path) as work:
        (work / "deep").mkdir()
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the path is too long"):
        refuse_existing(tmp_path / ("n" * 256))


def test_a_record_holds_a_path_that_is_no_utf_8(tmp_path: Path) -> None:
    value = {"data_dir": os.fsdecode(b"/data/b\xe9"), "名": "值"}
    write_json(tmp_path / "run.json", value)
    assert json.loads((tmp_path / "run.json").read_bytes()) == value
