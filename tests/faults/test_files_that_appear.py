"""A file or a folder gets its name when all of it lies on the disk, and the name lies there too in the end."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from finetune.disk import unpublished, write_atomically

Trace = list[tuple[str, str]]


def _place(path: Path) -> str:
    """`tmp` for the folder of unfinished things, `tmp/NAME` for what lies right in it, else the name."""
    if path.name.startswith("tmp-"):
        return "tmp"
    return f"tmp/{path.name}" if path.parent.name.startswith("tmp-") else path.name


@pytest.fixture
def traced(harness: ModuleType, tmp_path: Path) -> Callable[[Callable[[Path], None]], Trace]:
    """What `work(folder)` asks of the file system, in a child: operation and path inside the folder."""

    def trace(work: Callable[[Path], None]) -> Trace:
        folder, told = tmp_path / "folder", tmp_path / "told.json"
        folder.mkdir()

        def in_child() -> None:
            operations = harness.Operations(folder, -1, harness.die).install()
            work(folder)
            told.write_text(json.dumps(operations.trace))

        assert harness.forked(in_child) == 0
        found = [(name, Path(path).relative_to(folder)) for name, path in json.loads(told.read_text())]
        return [(name, _place(path)) for name, path in found]

    return trace


def test_a_file_lies_on_the_disk_before_it_takes_the_old_one_s_place_and_so_does_its_name_after(
    traced: Callable[[Callable[[Path], None]], Trace],
) -> None:
    trace = traced(lambda folder: write_atomically(folder / "run.json", b"{}"))
    begun = trace.index(("open", "tmp/run.json"))
    assert trace[begun : begun + 6] == [
        ("open", "tmp/run.json"),
        ("write", "tmp/run.json"),
        ("fsync", "tmp/run.json"),
        ("os.rename", "tmp/run.json"),
        ("open", ""),
        ("fsync", ""),
    ]
    assert trace[-1] == ("os.rmdir", "tmp")


def test_a_folder_lies_on_the_disk_before_it_gets_its_name_and_so_does_its_name_after(
    traced: Callable[[Callable[[Path], None]], Trace],
) -> None:
    def publish(folder: Path) -> None:
        with unpublished(folder / "merged") as made:
            (made / "config.json").write_text("{}")
            (made / "deep").mkdir()
            (made / "deep" / "model.safetensors").write_text("weights")

    trace = traced(publish)
    renamed = trace.index(("os.rename", "tmp/merged"))
    synced = {path for name, path in trace[:renamed] if name == "fsync"}
    assert synced == {"config.json", "deep", "model.safetensors", "tmp/merged"}
    assert ("fsync", "") in trace[renamed:]
