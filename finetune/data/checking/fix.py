"""Write data anew with what can be used: UTF-8, a record a line; what was left out is listed with its reason.

Left out are records that cannot be used, and exact repetitions within a split. Nothing is rewritten: a record
keeps all its fields, and the paths of its images hold in the new folder.
"""

import base64
import json
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO

from finetune.chat.messages import Conversation
from finetune.config.schema import Config
from finetune.data.checking.check import files_of
from finetune.data.checking.luggage import Luggage
from finetune.data.checking.report import CheckReport
from finetune.data.reading.intake import Intake, folder_of
from finetune.data.reading.record import Malformed, Record
from finetune.disk import unpublished
from finetune.folder import REJECTED_FILE

LEFT_OUT = "left-out"


def fix(report: CheckReport, config: Config, output: Path) -> list[str]:
    """Make the folder `output` from the data that `report` is about; returns a line for each file.

    Raises FolderInUseError where `output` exists, StorageError for what the disk refuses; then nothing is left.
    """
    places, repeated, lines = count(), set(report.repeated.tolist()), []
    with unpublished(output) as folder:
        # In a folder of its own: it is no data, whatever a data file is called.
        left_out = folder / LEFT_OUT / REJECTED_FILE
        left_out.parent.mkdir()
        luggage = Luggage(folder)
        with left_out.open("w", encoding="utf-8", errors="backslashreplace") as rejected:
            for path in files_of(Path(report.path), config):
                intake = Intake.under(config.data_config, folder_of(report.path), path, opens_images=True)
                target = _new_name(folder, path)
                with target.open("x", encoding="utf-8") as kept:
                    written = _write(_sorted_out(intake, report, repeated, places, luggage), kept, rejected)
                lines.append(f"{output / target.name}: {written:,} of {intake.rows:,} records of {path}")
        lines += luggage.lines()
        if not left_out.stat().st_size:
            shutil.rmtree(left_out.parent)
            return lines
    return [*lines, f"{output / LEFT_OUT / REJECTED_FILE}: the others, with their reasons"]


def _new_name(folder: Path, path: Path) -> Path:
    """Where a file is written: under its own name, with a number where another file has that already."""
    name = path.name.encode(errors="backslashreplace").decode().removesuffix(".jsonl")
    names = (f"{name}.jsonl" if n == 1 else f"{name}-{n}.jsonl" for n in count(1))
    return next(folder / name for name in names if not (folder / name).exists())


def _write(found: Iterator[Record | Malformed], kept: IO[str], rejected: IO[str]) -> int:
    """How many records were kept."""
    written = 0
    for one in found:
        if isinstance(one, Malformed):
            rejected.write(f"{one.as_json()}\n")
        else:
            kept.write(f"{json.dumps(one.data, ensure_ascii=False, default=_spelt)}\n")
            written += 1
    return written


def _spelt(value: object) -> str:
    """What a table holds and JSON cannot: the bytes of an image as the address that stands for them."""
    if isinstance(value, bytes):
        return f"data:;base64,{base64.b64encode(value).decode()}"
    return str(value)


def _sorted_out(
    intake: Intake, report: CheckReport, repeated: set[int], places: Iterator[int], luggage: Luggage
) -> Iterator[Record | Malformed]:
    """Every record, or the reason why it is left out; `places` counts good records as the check did.

    The images of those that are kept go into the luggage.
    """
    for record in intake.records():
        parsed = intake.parse(record)
        if isinstance(parsed, Malformed):
            intake.problems.clear()
            yield parsed
            continue
        assert isinstance(record, Record)
        place = next(places)
        if place in report.unspelt:
            yield report.unspelt[place]
        elif place in repeated:
            yield record.malformed("W501", "says the same as an earlier row")
        else:
            if isinstance(parsed, Conversation) and parsed.images:
                luggage.pack(intake.named_images(record), parsed.images)
            yield record
