"""Look through data before a model is touched: what it holds, what is wrong with it, what would be cut.

One pass, without torch. What is remembered of a row are two hashes and a line: 16 bytes.
"""

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune.chat.messages import ROLES, Conversation
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config, DataConfig
from finetune.data.checking import thoughts
from finetune.data.checking.findings import Findings
from finetune.data.checking.fingerprints import Fingerprints, Repetition
from finetune.data.checking.report import CheckReport, FileReport
from finetune.data.checking.review import review
from finetune.data.checking.writing import WritingSystems
from finetune.data.encode import REFUSALS, Encoded, Encoder, Source, encode
from finetune.data.ledger import Fate, Ledger
from finetune.data.mixture import refused
from finetune.data.reading.intake import Intake, folder_of, resolve_file
from finetune.data.reading.record import Malformed, Record
from finetune.data.reading.records import files_by_split, files_for, stray_files
from finetune.data.reading.splits import Split
from finetune.data.spelt import Spelt
from finetune.data.stream import encoded
from finetune.errors import DataError

_WITHOUT_LIMIT = 1 << 62
_DIGITS = {role: str(number) for number, role in enumerate(ROLES)}

__all__ = ["CheckReport", "all_of", "check_data", "files_of"]


def all_of(data: str | Path, *, remote_images: bool = False) -> Config:
    """The configuration of data that nobody configured: all that is there, and every other default."""
    if not str(data):
        raise DataError("DATA is an empty text; name a file or a folder")
    return Config(data_config=DataConfig(train_file=str(data), allow_remote_images=remote_images))


def check_data(
    data: str | Path, template: ChatTemplate | None = None, config: Config | None = None
) -> CheckReport:
    """Read all of `data` and report; without `template` no tokens are counted. `config`: format and limits.

    `data` is a file, a Hub id or a folder: the files in it that `config` names, or without one all data files.
    Raises DataError only where there is nothing to read; what is wrong inside stands in the report.
    """
    settings = config or all_of(data)
    survey = _Survey(template, settings, folder_of(data))
    for path, split in files_of(Path(data), settings).items():
        survey.read(path, split)
    for stray in _stray(Path(data), settings):
        survey.findings.add(stray)
    for path, split in _trained_too(Path(data), settings):
        reason = f"the file for {split} is one for training, too: the model has seen every answer"
        survey.findings.add(Malformed(str(path), 1, 0, reason, "W503"))
    return survey.report(str(data))


def _stray(data: Path, config: Config) -> Iterator[Malformed]:
    """A remark about each data file in the folders that are read, which is for nothing."""
    if not data.is_dir():
        return
    whole = Path(str(config.data_config.train_file)) == data
    named = [data] if whole else [resolve_file(name, data) for name, _ in _named_files(config.data_config)]
    for folder in dict.fromkeys(path for path in named if path.is_dir()):
        yield from stray_files(folder)


def files_of(data: Path, config: Config) -> dict[Path, Split]:
    """The files to be read, and what each is for; those for training first, so that others can repeat them."""
    if not data.is_dir():
        return {data: "training"}
    if isinstance(named := config.data_config.train_file, str) and Path(named) == data:
        return files_by_split(data)
    splits: dict[Path, Split] = {}
    for path, split in _found_files(data, config):
        splits.setdefault(path, split)
    return splits


def _found_files(data: Path, config: Config) -> Iterator[tuple[Path, Split]]:
    """The files that a configuration names, those of folders one by one, and what each is for."""
    for name, split in _named_files(config.data_config):
        path = resolve_file(name, data)
        yield from ((file, split) for file in (files_for(path, split) if path.is_dir() else [path]))


def _trained_too(data: Path, config: Config) -> Iterator[tuple[Path, Split]]:
    """Files of a folder that the configuration names for training, and for something else besides."""
    if data.is_dir() and Path(str(config.data_config.train_file)) != data:
        found = list(_found_files(data, config))
        trained = {path for path, split in found if split == "training"}
        yield from ((path, split) for path, split in found if split != "training" and path in trained)


def _named_files(files: DataConfig) -> Iterator[tuple[str, Split]]:
    """Names of files, and what each is for."""
    shares = [files.train_file] if isinstance(files.train_file, str) else [one.file for one in files.train_file]
    yield from ((name, "training") for name in shares)
    yield from ((name, "validation") for name in files.val_files.values())
    if files.test_file is not None:
        yield files.test_file, "test"


@dataclass(slots=True)
class _Survey:
    """A data set on its way through the check."""

    template: ChatTemplate | None
    config: Config
    data_dir: Path
    files: list[FileReport] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the first good record of each file
    findings: Findings = field(default_factory=Findings)
    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    writing: WritingSystems = field(default_factory=WritingSystems)
    unspelt: dict[int, Malformed] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        return self.config.max_input_length + self.config.max_output_length

    def read(self, path: Path, split: Split) -> None:
        """Look through one file."""
        intake = Intake.under(self.config.data_config, self.data_dir, path, opens_images=True, split=split)
        report = FileReport(str(path), split, ledger=None if self.template is None else Ledger())
        self.files.append(report)
        self.starts.append(len(self.fingerprints))
        looked_at = self._looked_at(intake, report)
        if self.template is None:
            for _ in looked_at:
                pass
        else:
            self._encode(looked_at, report, self.template)
        for finding in intake.remarks():
            self.findings.add(finding)
        report.rows = intake.rows
        report.format, report.why = intake.format()
        if report.ledger is not None:
            report.ledger.rows = intake.rows
            report.ledger.check()

    def _looked_at(self, intake: Intake, report: FileReport) -> Iterator[tuple[tuple[Record, int], Source]]:
        """The good records and their places among all good ones, counted and reviewed."""
        for record in intake.records():
            source = intake.parse(record)
            if isinstance(source, Malformed):
                self._refuse(source, report)
                intake.problems.clear()  # they are counted here, and may be many
                continue
            assert isinstance(record, Record)
            self._look_at(record, source, report)
            yield (record, len(self.fingerprints) - 1), source

    def _look_at(self, record: Record, source: Source, report: FileReport) -> None:
        text = _text_of(source)
        self.fingerprints.add(text, record.line)
        self.writing.add(text)
        report.count(source)
        if self.template is None and isinstance(source, Conversation):
            report.thoughts.update(thoughts.in_data(source, self.config.data_config.train_on))
        for remark in review(source):
            self.findings.add(record.malformed(remark.code, remark.message, remark.path))

    def _refuse(self, problem: Malformed, report: FileReport) -> None:
        self.findings.add(problem)
        if report.ledger is not None:
            report.ledger.count("malformed")

    def _encode(
        self, looked_at: Iterator[tuple[tuple[Record, int], Source]], report: FileReport, template: ChatTemplate
    ) -> None:
        spelt = Spelt(template)
        encoder = Encoder(template, _WITHOUT_LIMIT, self.config.data_config.train_on)
        for (record, place), source, outcome in encoded(encoder, looked_at):
            spelt.look_at(record, source)
            if isinstance(outcome, REFUSALS):
                self.unspelt[place] = refused(record, outcome)
                self._refuse(self.unspelt[place], report)
            else:
                fate = self._measure(record, source, outcome, report)
                assert report.ledger is not None
                report.ledger.count(fate)
        for finding in spelt.findings():
            self.findings.add(finding)

    def _measure(self, record: Record, source: Source, whole: Encoded, report: FileReport) -> Fate:
        """Note the conversation's tokens, and what becomes of it under the limit."""
        assert self.template is not None
        tokens, (examples, fate) = report.measure(whole, self.template.sight), whole
        if isinstance(source, Conversation):
            train_on = self.config.data_config.train_on
            report.thoughts.update(thoughts.as_learnt(source, examples, self.template, train_on))
        if fate == "no_answer" and isinstance(source, Conversation) and source.assistant_turns():
            reason = "every assistant turn is marked as not to be learnt: training leaves the record out"
            self.findings.add(record.malformed("W505", reason))
        if tokens <= self.limit or not isinstance(source, Conversation):
            return fate
        overflow, train_on = self.config.data_config.overflow, self.config.data_config.train_on
        _, fate = encode(source, self.template, max_length=self.limit, train_on=train_on, overflow=overflow)
        becomes = "it would be cut to its end" if fate == "truncated" else "it would be left out"
        reason = (
            f"{tokens:,} tokens, the limit is {self.limit:,} (max_input_length + max_output_length): {becomes}"
        )
        self.findings.add(record.malformed("E401" if overflow == "error" else "W504", reason))
        return fate

    def report(self, name: str) -> CheckReport:
        repeated = array("q", (found.row for found in self._repetitions() if found.exact))
        return CheckReport(
            path=name,
            files=tuple(self.files),
            findings=self.findings,
            writing=self.writing.shares(),
            repeated=np.array(repeated, dtype=np.int64),
            unspelt=self.unspelt,
            limit=self.limit,
            thinking=self.config.data_config.thinking,
        )

    def _repetitions(self) -> Iterator[Repetition]:
        """Rows that say what another row says, each noted as a warning; between splits it is an overlap."""
        for found in self.fingerprints.repetitions():
            here, there = self._file_of(found.row), self._file_of(found.first)
            place = f"{there.path}:{self.fingerprints.lines[found.first]}"
            if here.split != there.split:
                code, reason = (
                    "W503",
                    f"this row for {here.split} says what {place} says, which is for {there.split}",
                )
            elif found.exact:
                code, reason = "W501", f"says the same as {place}"
            else:
                code, reason = "W502", f"says the same as {place}, but for case and spacing"
            self.findings.add(Malformed(here.path, self.fingerprints.lines[found.row], 0, reason, code))
            if here.split == there.split:
                yield found

    def _file_of(self, row: int) -> FileReport:
        return self.files[bisect_right(self.starts, row) - 1]


def _text_of(source: Source) -> str:
    """All that a record says, with a digit for who says it: digits are no letters of any writing system."""
    if not isinstance(source, Conversation):
        return source.text
    pieces = []
    for message in source.messages:
        pieces += [f"{_DIGITS[message.role]}{int(message.train)}", message.reasoning or "", message.content]
        pieces += [
            f"{call.name} {json.dumps(call.arguments, sort_keys=True, default=str)}"
            for call in message.tool_calls
        ]
        pieces += [image.path or str(hash(image.data)) for image in message.images]
    for tool in source.tools:
        pieces += [tool.name, tool.description, json.dumps(tool.parameters, sort_keys=True, default=str)]
    return "\x1f".join(pieces)
