"""One data file on its way in: every record parsed or set aside with its reason, and counted.

What training, evaluation and `finetune check` have in common.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from finetune import log
from finetune.chat.assistant_first import AssistantFirst, settle_leading
from finetune.chat.messages import Conversation, Image
from finetune.config.schema import DataConfig
from finetune.data.images.access import Access
from finetune.data.reading.compressed import without_packing
from finetune.data.reading.fields import WrongRecordError
from finetune.data.reading.formats import PlainText, RecordError, parse_conversation
from finetune.data.reading.layout import Format, Layout, detect_layout, names_under
from finetune.data.reading.pictures import look_at_all, with_settled_images
from finetune.data.reading.preferences import refuse_preferences
from finetune.data.reading.records import (
    Malformed,
    Record,
    files_for,
    is_hub_id,
    read_records,
    stray_files,
)
from finetune.data.reading.splits import Split
from finetune.data.reading.strict_json import NotJSONError, loads
from finetune.data.reading.unread import Unread
from finetune.disk import sha256_of
from finetune.errors import DataError
from finetune.printing import Lines

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
    rows: what stands where a record should. problems: the bad ones. layouts: of each file. unread: keys of good
    records that nothing reads. columns: the records' own keys, as `data_config.columns` names them.
    """

    path: Path
    wanted: Format | None = None
    access: Access = field(default_factory=lambda: Access(()))
    opens_images: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    split: Split = "training"
    assistant_first: AssistantFirst = "train"
    rows: int = 0
    problems: list[Malformed] = field(default_factory=list)
    layouts: dict[str, Layout] = field(default_factory=dict)
    unread: Unread = field(default_factory=Unread)
    not_drawn: int = 0

    @classmethod
    def under(
        cls,
        data_config: DataConfig,
        data_dir: Path,
        path: Path,
        *,
        opens_images: bool = False,
        split: Split = "training",
    ) -> "Intake":
        """Of a file as `data_config` wants it read. Images may lie below `data_dir` and the roots it names."""
        roots = (data_dir, *(data_dir / root for root in data_config.image_roots))
        access = Access(roots, remote=data_config.allow_remote_images)
        wanted = None if data_config.format == "auto" else data_config.format
        return cls(path, wanted, access, opens_images, data_config.columns, split, data_config.assistant_first)

    def records(self) -> Iterator[Record | Malformed]:
        """Everything that stands where a record should, counted."""
        with log.progress(f"reading {self.path.name}", None) as advance:
            for record in read_records(self.path, self.split):
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
            refuse_preferences(record.data)
            if self.wanted is None:
                refuse_json_as_text(record)
            layout = self._layout(record)
            parsed = parse_conversation(record, layout.format, layout.names)
            settled = self._with_images(self._opened(parsed), record)
        except RecordError as error:
            return self.refuse(error.problem)
        except WrongRecordError as wrong:
            return self.refuse(record.malformed(wrong.code, wrong.reason, wrong.path))
        self.unread.look_at(record, layout)
        return settled

    def _opened(self, source: Conversation | PlainText) -> Conversation | PlainText:
        """The conversation with what the assistant says first as `data_config.assistant_first` wants it."""
        if isinstance(source, PlainText):
            return source
        settled = settle_leading(source, self.assistant_first)
        if settled is None:
            reason = "no user's turn: without what the assistant says first, nothing is left"
            raise WrongRecordError("E205", reason, source.messages[0].at)
        return settled

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
        layout = self._layout(record)
        source = parse_conversation(record, layout.format, layout.names)
        return () if isinstance(source, PlainText) else source.images

    def refuse(self, problem: Malformed) -> Malformed:
        """Note a record that cannot be used."""
        self.problems.append(problem)
        return problem

    def _layout(self, record: Record) -> Layout:
        """The layout of the record's file, which its first record with a known one decides."""
        if record.source not in self.layouts:
            self.layouts[record.source] = self._layout_by(record)
        return self.layouts[record.source]

    def _layout_by(self, record: Record) -> Layout:
        if self.wanted is None or self.columns:
            found = detect_layout(record.data, self.columns)
            if self.wanted in (None, found.format):
                return replace(found, why=f"{found.why} (line {record.line})")
        else:
            names = names_under(self.wanted, record.data)
            return Layout(self.wanted, "data_config.format says so", names)
        reason = (
            f"data_config.format is {self.wanted}, but data_config.columns names the parts of {found.format}"
        )
        raise WrongRecordError("E201", reason)

    def remarks(self) -> Iterator[Malformed]:
        """What a person should know of the whole: files and keys that nothing reads."""
        yield from stray_files(self.path)
        yield from self.unread.findings()

    def format(self) -> tuple[str, str]:
        """What was read, and why it was taken for that; both empty if nothing was."""
        taken = sorted({(layout.format, layout.why) for layout in self.layouts.values()})
        names = sorted({found for found, _ in taken})
        return ", ".join(names), "; ".join(dict.fromkeys(why for _, why in taken))


def refuse_json_as_text(record: Record) -> None:
    """Raises WrongRecordError for a .txt file of JSON: one document of plain text is hardly what it is."""
    if record.text is not None or without_packing(Path(record.source)).suffix.lower() != ".txt":
        return
    text = str(record.data["text"]).lstrip()
    first = text if text.startswith("[") else text.partition("\n")[0]
    try:
        found = loads(first) if text.startswith(("{", "[")) else None
    except NotJSONError:
        return
    if isinstance(found, dict) or (isinstance(found, list) and found and isinstance(found[0], dict)):
        advice = "rename it to .jsonl, or set data_config.format: text to learn it as the text it is"
        raise WrongRecordError("E224", f"a .txt file is one document of plain text, and this is JSON; {advice}")


def raise_problems(problems: Sequence[Malformed], rows: int, advice: str) -> None:
    """Raise one DataError with the first mistakes, their number and what to do; nothing if there is none."""
    if not problems:
        return
    lines = [str(problem) for problem in problems[:SHOWN]]
    more = f"the first {SHOWN} of {len(problems):,}; " if len(problems) > SHOWN else ""
    lines.append(f"{more}{len(problems):,} of {rows:,} records cannot be used: {advice}")
    raise DataError(Lines(lines))


def content_hash(path: Path, split: Split = "training") -> str:
    """SHA-256 of a file's bytes (sha256sum's), of the names and hashes of a folder's files for `split`, or of a
    Hub set's records."""
    if path.is_file():
        return sha256_of(path)
    total = hashlib.sha256()
    if path.is_dir():
        for file_path in files_for(path, split):
            total.update(f"{file_path.name} {content_hash(file_path)}\n".encode())
    else:
        for record in read_records(path):
            assert isinstance(record, Record)
            total.update(json.dumps(record.data, sort_keys=True, default=str).encode())
    return total.hexdigest()
