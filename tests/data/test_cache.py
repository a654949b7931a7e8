"""Encoded data is kept whole or not at all, found only by what it depends on, and never trusted unseen."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from finetune.config.schema import DataConfig, FileShare
from finetune.data import cache, cache_limit, dataset, mixture
from finetune.data.dataset import Examples, load_examples
from finetune.disk import cache_folder
from finetune.errors import ConfigError, DataError
from tests.data.conftest import GLM4, byte_tokenizer

Load = Callable[..., Examples]
ARRAYS = ("input_ids", "loss_mask", "offsets", "first_example", "lines", "sources")


def rows(count: int) -> list[dict]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": "好" * (i % 7 + 1)},
            ]
        }
        for i in range(count)
    ]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(30)) + "{\n", encoding="utf-8")
    return path


@pytest.fixture
def load(file: Path, glm4) -> Load:
    def load(
        template=glm4, files: str | list[FileShare] = "train.jsonl", max_length: int = 100, **config
    ) -> Examples:
        data_config = DataConfig(train_file="train.jsonl", **({"on_bad_record": "skip"} | config))
        return load_examples(data_config, files, file.parent, template, max_length=max_length)

    return load


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that data was really encoded."""
    made: list[int] = []
    encoded = mixture.encoded

    def counting(*arguments: object, **options: object) -> Iterator:
        made.append(1)
        return encoded(*arguments, **options)

    monkeypatch.setattr(mixture, "encoded", counting)
    return made


def entries() -> list[Path]:
    folder = cache_folder() / "tokens"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def same(one: Examples, other: Examples) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    accounts = [asdict(account) for account in one.files] == [asdict(account) for account in other.files]
    return arrays and accounts and one.rejected == other.rejected and one.source_names == other.source_names


def test_the_second_run_finds_what_the_first_encoded(load: Load, encodings: list[int]) -> None:
    first, second = load(), load()
    assert len(encodings) == 1 and len(entries()) == 1
    assert same(first, second)
    assert isinstance(second.input_ids, np.memmap) and not second.input_ids.flags.writeable
    assert (second.ledger.rows, len(second.rejected)) == (31, 1)
    assert [getattr(first, name).dtype for name in ARRAYS] == [getattr(second, name).dtype for name in ARRAYS]


@pytest.mark.parametrize(
    "other",
    [
        {"max_length": 99},
        {"train_on": "last"},
        {"overflow": "truncate-left"},
        {"format": "messages"},
        {"files": [FileShare(file="train.jsonl", weight=2)]},
        {"files": [FileShare(file="train.jsonl", limit=5)]},
    ],
    ids=str,
)
def test_another_setting_is_another_entry(load: Load, encodings: list[int], other: dict) -> None:
    load()
    load(**other)
    assert len(encodings) == 2 and len(entries()) == 2


def test_more_processes_find_what_one_encoded(load: Load, encodings: list[int]) -> None:
    load()
    load(num_proc=2)
    assert len(encodings) == 1


def test_other_data_another_template_another_tokenizer_and_other_code_are_other_entries(
    load: Load, file: Path, glm4, encodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.chat.template import ChatTemplate

    load()
    load(ChatTemplate(byte_tokenizer(), GLM4.read_text(encoding="utf-8") + "{# other #}"))
    bigger = byte_tokenizer()
    bigger.add_tokens(["aword"])
    load(ChatTemplate(bigger, glm4.source))
    load(ChatTemplate(byte_tokenizer(), glm4.source, thinking="drop"))
    assert len(encodings) == len(entries()) == 4
    monkeypatch.setattr(cache, "_code_version", lambda: ["other code"])
    load()
    assert len(encodings) == 5
    file.write_text(file.read_text(encoding="utf-8") + json.dumps(rows(1)[0]) + "\n", encoding="utf-8")
    assert load().ledger.rows == 32


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in ARRAYS), "about.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_entry_is_noticed_removed_and_made_anew(
    load: Load, encodings: list[int], name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load()
    path = entries()[0] / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0x10
    path.unlink()
    if damage != "remove":
        path.write_bytes({"flip": content, "truncate": content[:-3], "empty": b""}[damage])
    again = load()
    assert len(encodings) == 2 and same(first, again)
    assert "damaged" in capsys.readouterr().err


def test_mistakes_keep_nothing_and_are_told_again(load: Load) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="1 of 31 records cannot be used"):
            load(on_bad_record="error")
    assert entries() == []


@pytest.mark.parametrize("place", ["file", "read-only"])
def test_where_nothing_can_be_kept_data_is_encoded_all_the_same(
    load: Load, tmp_path: Path, encodings: list[int], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the cache would be")
    if place == "read-only":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    assert same(load(), load()) and len(encodings) == 2


def test_a_full_disk_costs_the_next_start_and_nothing_else(
    load: Load, encodings: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_synced", full)
    assert load().conversations == 30
    assert entries() == [] and "not kept" in capsys.readouterr().err
    monkeypatch.setattr(cache_limit, "bytes_free", lambda _: 1000)
    assert load().conversations == 30
    assert entries() == [] and "too little room" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_read_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = iter(["a" * 64, "b" * 64])
    monkeypatch.setattr(dataset, "content_hash", lambda *_: next(hashes))
    with pytest.raises(DataError, match="changed while it was read"):
        load()
    assert entries() == []


def kept_under(load: Load, monkeypatch: pytest.MonkeyPatch, entries_that_fit: float) -> tuple[Path, Path]:
    """Two entries, the first used last, and a limit; this process holds neither."""
    load()
    (used,) = entries()
    load(max_length=99)
    (unused,) = set(entries()) - {used}
    load()
    size = sum(file.stat().st_size for file in used.iterdir())
    monkeypatch.setenv("FINETUNE_CACHE_LIMIT", str(entries_that_fit * size / 1e9))
    for entry in (used, unused):
        cache_limit.release(entry)
    return used, unused


@pytest.mark.parametrize("years", [-30, 0, 30], ids="the clock jumps {} years".format)
def test_the_least_recently_used_goes_where_the_limit_is_reached(
    years: int, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, unused = kept_under(load, monkeypatch, 2.5)
    for entry, later in ((used, 10), (unused, 0)):  # seconds: more than the system's clock can tell apart
        moved = entry.stat().st_mtime + years * 365 * 24 * 3600 + later
        os.utime(entry, (moved, moved))
    load(max_length=98)
    assert used in entries() and unused not in entries() and len(entries()) == 2


def test_what_a_process_reads_stays_and_the_new_is_not_kept(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used, unused = kept_under(load, monkeypatch, 2.5)
    for entry in (used, unused):
        cache_limit.hold(entry, entry / "about.json")
    encoded = load(max_length=98)
    assert len(encoded) and set(entries()) == {used, unused}
    assert "are held by other runs" in capsys.readouterr().err


def test_what_cannot_be_removed_is_not_said_to_be(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used, unused = kept_under(load, monkeypatch, 2.5)
    monkeypatch.setattr(cache_limit.shutil, "rmtree", lambda *_, **__: None)  # as of another user's
    load(max_length=98)
    assert set(entries()) == {used, unused}
    told = capsys.readouterr().err
    assert "removed from the cache" not in told and "or cannot be removed" in told


def test_a_limit_of_nothing_keeps_nothing_and_one_that_is_no_number_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "0")
    load()
    assert entries() == []
    monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "much")
    with pytest.raises(ConfigError, match="FINETUNE_CACHE_LIMIT=much: expected a number of GB"):
        load()


def test_without_a_limit_given_it_is_a_part_of_the_disk(tmp_path: Path) -> None:
    assert cache_limit.limit_of(tmp_path) == min(20 * 10**9, shutil.disk_usage(tmp_path).total // 10)


def _encode(folder: Path, started: "multiprocessing.synchronize.Event", slow: float) -> None:
    """A process that encodes slowly, and says when it has begun."""
    from finetune.chat.template import ChatTemplate

    encoded = mixture.encoded

    def slowly(*arguments: object, **options: object) -> Iterator:
        started.set()
        time.sleep(slow)
        return encoded(*arguments, **options)

    mixture.encoded = slowly
    template = ChatTemplate(byte_tokenizer(), GLM4.read_text(encoding="utf-8"), name="glm4.jinja")
    config = DataConfig(train_file="train.jsonl", on_bad_record="skip")
    load_examples(config, "train.jsonl", folder, template, max_length=100)


def _process(folder: Path, slow: float) -> multiprocessing.Process:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_encode, args=(folder, started, slow))
    process.start()
    assert started.wait(60)
    return process


def test_one_process_encodes_and_the_other_waits_for_it(load: Load, file: Path, encodings: list[int]) -> None:
    process = _process(file.parent, slow=1.0)
    assert load().conversations == 30
    process.join(60)
    assert process.exitcode == 0 and encodings == []


def test_a_killed_encoding_leaves_no_half_entry_and_blocks_nobody(
    load: Load, file: Path, encodings: list[int]
) -> None:
    process = _process(file.parent, slow=60)
    assert process.pid is not None
    threading.Timer(0.3, os.kill, (process.pid, signal.SIGKILL)).start()
    assert load().conversations == 30
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and len(encodings) == 1


@pytest.mark.parametrize("calls", range(12))
def test_a_stop_between_any_two_writes_leaves_a_whole_entry_or_none(
    load: Load, encodings: list[int], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    class Stopped(BaseException):
        pass

    left = [calls]

    def counted(name: str, real: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped(name)
            return real(*arguments, **options)

        return call

    steps = {name: getattr(cache, name) for name in ("seal", "write_synced", "sync_folder")}
    for name, real in steps.items():
        monkeypatch.setattr(cache, name, counted(name, real))
    with suppress(Stopped):
        load()
    for name, real in steps.items():
        monkeypatch.setattr(cache, name, real)
    whole = [entry for entry in entries() if not entry.name.startswith("tmp-")]
    assert all((entry / "about.json").is_file() for entry in whole)
    assert load().conversations == 30
    (entry,) = entries()
    assert not entry.name.startswith("tmp-")
