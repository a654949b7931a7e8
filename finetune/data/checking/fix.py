"""Write data anew with what can be used: UTF-8, a record a line; what was left out is listed with its reason.

Left out are records that cannot be used, and exact repetitions within a split. Nothing is rewritten: a record
keeps all its fields.
"""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO

from finetune.config.schema import Config
from finetune.data.checking.check import files_of
from finetune.data.checking.report import CheckReport
from finetune.data.reading.intake import Intake, wanted_format
from finetune.data.reading.record import Malformed, Record
from finetune.disk import unpublished
from finetune.folder import REJECTED_FILE


def fix(report: CheckReport, config: Config, output: Path) -> list[str]:
    """Make the folder `output` from the data that `report` is about; returns a line for each file.

    Raises FolderInUseError where `output` exists, StorageError for what the disk refuses; then nothing is left.
    """
    places, repeated, lines = count(), set(report.repeated.tolist()), []
    with unpublished(output) as folder:
        with (folder / REJECTED_FILE).open("w", encoding="utf-8") as rejected:
            for path in files_of(Path(report.path), config):
                intake = Intake(path, wanted_format(config.data_config))
                name = path.name if path.suffix == ".jsonl" else f"{path.name}.jsonl"
                with (folder / name).open("w", encoding="utf-8") as kept:
                    written = _write(_sorted_out(intake, report, repeated, places), kept, rejected)
                lines.append(f"{output / name}: {written:,} of {intake.rows:,} records")
        if not (folder / REJECTED_FILE).stat().st_size:
            (folder / REJECTED_FILE).unlink()
            return lines
    return [*lines, f"{output / REJECTED_FILE}: the others, with their reasons"]


def _write(found: Iterator[Record | Malformed], kept: IO[str], rejected: IO[str]) -> int:
    """How many records were kept."""
    written = 0
    for one in found:
        if isinstance(one, Malformed):
            rejected.write(f"{one.as_json()}\n")
        else:
            kept.write(f"{json.dumps(one.data, ensure_ascii=False, default=str)}\n")
            written += 1
    return written


def _sorted_out(
    intake: Intake, report: CheckReport, repeated: set[int], places: Iterator[int]
) -> Iterator[Record | Malformed]:
    """Every record, or the reason why it is left out; `places` counts good records as the check did."""
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
            yield record
