"""One data file on its way in: every record parsed or set aside with its reason, and counted.

What training, evaluation and `finetune check` have in common.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from finetune import log
from finetune.chat.messages import Conversation, Image
from finetune.config.schema import DataConfig
from finetune.data.images.access import Access
from finetune.data.reading.fields import WrongRecordError
from finetune.data.reading.formats import Format, PlainText, RecordError, detect_format, parse_conversation
from finetune.data.reading.pictures import look_at_all, with_settled_images
from finetune.data.reading.records import Malformed, Record, data_files, is_hub_id, read_records
from finetune.disk import sha256_of
from finetune.errors import DataError

SHOWN = 10
"""So many mistakes are shown before the rest is only counted."""

_BEAT = 256  # rows between two looks at the progress bar, which costs more than a row


def resolve_file(name: str, data_dir: Path) -> Path:
    """Where a file of data_config lies: in `data_dir`, or at a path of its own; a Hub id comes back as it is.

    Raises DataError, naming what lies in `data_dir`.
    """
    for path in (data_dir / name, Path(name)):
        if path.exists():
            return path
    if is_hub_id(name) and not (data_dir / name).parent.exists():
        return Path(name)
    there = sorted(path.name for path in data_dir.glob("[!.]*")) if data_dir.is_dir() else []
    close = get_close_matches(name, there, 1)
    hint = f"did you mean {close[0]}?" if close else f"it holds {', '.join(there[:8]) or 'nothing'}"
    raise DataError(f"{name}: no such file in {data_dir}, nor as a path of its own; {hint}")


def folder_of(data: str | Path) -> Path:
    """The folder that paths in `data` (a file, or the folder itself) start from."""
    return Path(data) if Path(data).is_dir() else Path(data).parent


@dataclass(slots=True)
class Intake:
    """A file, folder or Hub id being read.

    access: where images may lie. opens_images: they are looked at here, not by whoever encodes.
    rows: what stands where a record should. problems: the bad ones. formats: of each file, and why.
    """

    path: Path
    wanted: Format | None = None
    access: Access = field(default_factory=lambda: Access(()))
    opens_images: bool = False
    rows: int = 0
    problems: list[Malformed] = field(default_factory=list)
    formats: dict[str, tuple[Format, str]] = field(default_factory=dict)
    not_drawn: int = 0

    @classmethod
    def under(
        cls, data_config: DataConfig, data_dir: Path, path: Path, *, opens_images: bool = False
    ) -> "Intake":
        """Of a file as `data_config` wants it read. Images may lie below `data_dir` and the roots it names."""
        roots = (data_dir, *(data_dir / root for root in data_config.image_roots))
        access = Access(roots, remote=data_config.allow_remote_images)
        wanted = None if data_config.format == "auto" else data_config.format
        return cls(path, wanted, access, opens_images)

    def records(self) -> Iterator[Record | Malformed]:
        """Everything that stands where a record should, counted."""
        with log.progress(f"reading {self.path.name}", None) as advance:
            for record in read_records(self.path):
                self.rows += 1
                if self.rows % _BEAT == 0:
                    advance(_BEAT)
                yield record

    def conversations(self, limit: int | None = None) -> Iterator[tuple[Record, Conversation | PlainText]]:
        """The good records, of the first `limit`; what is wrong with the others is added to `problems`."""
        for record in self.records():
            if limit is not None and self.rows > limit:
                self.not_drawn += 1
                continue
            parsed = self.parse(record)
            if not isinstance(parsed, Malformed):
                assert isinstance(record, Record)
                yield record, parsed

    def parse(self, record: Record | Malformed) -> Conversation | PlainText | Malformed:
        """What a record holds; what is wrong with it is also added to `problems`."""
        if isinstance(record, Malformed):
            return self.refuse(record)
        try:
            return self._with_images(parse_conversation(record, self._format(record)), record)
        except RecordError as error:
            return self.refuse(error.problem)
        except WrongRecordError as wrong:
            return self.refuse(record.malformed(wrong.code, wrong.reason, wrong.path))

    def _with_images(self, source: Conversation | PlainText, record: Record) -> Conversation | PlainText:
        """The conversation with images that may be opened, and with `opens_images` can be used."""
        if isinstance(source, PlainText) or not source.images:
            return source
        settled = with_settled_images(source, Path(record.source).parent, self.access)
        if self.opens_images:
            look_at_all(settled)
        return settled

    def named_images(self, record: Record) -> Sequence[Image]:
        """The images of a good record, by the paths that it has for them."""
        source = parse_conversation(record, self._format(record))
        return () if isinstance(source, PlainText) else source.images

    def refuse(self, problem: Malformed) -> Malformed:
        """Note a record that cannot be used."""
        self.problems.append(problem)
        return problem

    def _format(self, record: Record) -> Format:
        """The format of the record's file, which its first record with a known one decides."""
        if self.wanted is not None:
            self.formats.setdefault(record.source, (self.wanted, "data_config.format says so"))
        if record.source not in self.formats:
            found, why = detect_format(record.data)
            self.formats[record.source] = found, f"{why} (line {record.line})"
        return self.formats[record.source][0]

    def format(self) -> tuple[str, str]:
        """What was read, and why it was taken for that; both empty if nothing was."""
        taken = sorted(set(self.formats.values()))
        names = sorted({found for found, _ in taken})
        return ", ".join(names), "; ".join(dict.fromkeys(why for _, why in taken))


def raise_problems(problems: Sequence[Malformed], rows: int, advice: str) -> None:
    """Raise one DataError with the first mistakes, their number and what to do; nothing if there is none."""
    if not problems:
        return
    lines = [str(problem) for problem in problems[:SHOWN]]
    more = f"the first {SHOWN} of {len(problems):,}; " if len(problems) > SHOWN else ""
    lines.append(f"{more}{len(problems):,} of {rows:,} records cannot be used: {advice}")
    raise DataError("\n".join(lines))


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes (sha256sum's), of a folder's names and hashes, or of a Hub set's records."""
    if path.is_file():
        return sha256_of(path)
    total = hashlib.sha256()
    if path.is_dir():
        for file_path in data_files(path):
            total.update(f"{file_path.name} {content_hash(file_path)}\n".encode())
    else:
        for record in read_records(path):
            assert isinstance(record, Record)
            total.update(json.dumps(record.data, sort_keys=True, default=str).encode())
    return total.hexdigest()
