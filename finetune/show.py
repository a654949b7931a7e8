"""`finetune show`: the exact tokens that training sees, encoded by what encodes for training.

train.jsonl:3  57 tokens: 21 trained, 36 context; trained
  context     36 │[gMASK]<sop><|user|>↵
                 │Why is the sky red at sunset?<|assistant|>
  trained     21 │↵
                 │Low sunlight crosses more air.<|user|>

A picture is one line, whatever it takes:
  picture     24 │images/cat.png, 640 x 480: tokens 17 to 40
"""

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from finetune.chat.template import ChatTemplate
from finetune.config import overrides
from finetune.config.load import load_config
from finetune.config.schema import Config
from finetune.data.checking.check import all_of, files_of
from finetune.data.dataset import load_examples, template_under
from finetune.data.encode import REFUSALS
from finetune.data.images.thumbnail import thumbnail
from finetune.data.mixture import refused
from finetune.data.plan import Step
from finetune.data.preview import Kind, Run, View, batch_views, views
from finetune.data.reading.intake import Intake, folder_of
from finetune.data.reading.record import Malformed, Record
from finetune.errors import ConfigError, DataError, FolderInUseError
from finetune.printing import drawing_on, one_line, printable
from finetune.report import write_texts
from finetune.train.prepare import conversations_per_step, make_plan

_STYLES: dict[Kind, str] = {"trained": "bold green", "context": "", "cut": "dim strike"}
_KINDS: tuple[Kind, ...] = ("trained", "context", "cut")


def show(
    data: str,
    model: str,
    config: Path | None,
    *,
    count: int,
    line: int | None,
    batch: bool,
    remote_images: bool = False,
) -> tuple[str, list[View]]:
    """A heading, and what to look at: the first `count` records, the one at `line`, or a micro-batch of step 1.

    Raises DataError where there is no such record; a bad one is shown as what is wrong with it.
    """
    settings = _settings(data, config, remote_images)
    template = template_under(settings, model)
    if batch:
        return _micro_batch(data, settings, template)
    records = _first(data, settings, count) if line is None else [_at_line(data, settings, line)]
    found = [view for record in records for view in _views(*record, template, settings)]
    return f"{data} as {model} would learn it: {template.dialect.name} template", found


def _settings(data: str, config: Path | None, remote_images: bool) -> Config:
    """The configuration; of a single file, whatever file the YAML names for training."""
    if config is None:
        return all_of(data, remote_images=remote_images)
    one_file = [] if Path(data).is_dir() else [f"data_config.train_file={json.dumps(data)}"]
    return load_config(config, [*one_file, *overrides.remote_images(remote_images)])


def _micro_batch(data: str, settings: Config, template: ChatTemplate) -> tuple[str, list[View]]:
    """The first micro-batch of step 1, as `finetune train` would compute it in one process."""
    folder = Path(data) if Path(data).is_dir() and settings.data_config.train_file != data else Path()
    limit = settings.max_input_length + settings.max_output_length
    files = settings.data_config.train_file
    examples = load_examples(settings.data_config, files, folder, template, max_length=limit)
    plan = make_plan(settings, examples, conversations_per_step(settings))
    step: Step = next(plan.steps(0, 1))
    micro_batches = step.micro_batches(0)
    tokens, most = int(examples.lengths[list(micro_batches[0])].sum()), plan.tokens_per_micro_batch
    heading = (
        f"step 1: {len(step.conversations)} conversations, {step.supervised:,} supervised tokens, "
        f"{len(micro_batches)} micro-batches; the first of them has {tokens:,} of {most:,} tokens"
    )
    return heading, list(batch_views(examples, micro_batches[0], template))


_Read = tuple[Record | Malformed, Intake]


def _read(data: str, settings: Config) -> Iterator[_Read]:
    for path in files_of(Path(data), settings):
        intake = Intake.under(settings.data_config, folder_of(data), path)
        yield from ((record, intake) for record in intake.records())


def _first(data: str, settings: Config, count: int) -> list[_Read]:
    found = list(islice(_read(data, settings), count))
    if not found:
        raise DataError(f"{data}: no record in it")
    return found


def _at_line(data: str, settings: Config, line: int) -> _Read:
    """The record that stands at a physical line: the last one that begins there or before."""
    if Path(data).is_dir():
        raise ConfigError(f"--line counts the lines of one file; {data} is a folder")
    found: _Read | None = None
    for record, intake in _read(data, settings):
        if record.line > line:
            break
        found = record, intake
    if found is None or (found[0].line < line and not _reaches(found[0], line)):
        raise DataError(f"{data}:{line}: no record stands there")
    return found


def _reaches(record: Record | Malformed, line: int) -> bool:
    """Whether a record of several lines may go on to `line`: its file has as many."""
    return isinstance(record, Record) and (record.text or "").count("\n") + 1 >= line


def _views(record: Record | Malformed, intake: Intake, template: ChatTemplate, settings: Config) -> list[View]:
    source = intake.parse(record)
    if isinstance(source, Malformed):
        return [View(f"{source.source}:{source.line}", f"refused: {source.code} {source.reason}", ())]
    assert isinstance(record, Record)
    try:
        return views(f"{record.source}:{record.line}", source, template, settings)
    except REFUSALS as error:
        wrong = refused(record, error)
        return [View(f"{record.source}:{record.line}", f"refused: {wrong.code} {wrong.reason}", ())]


def print_views(heading: str, found: Sequence[View]) -> None:
    """On the screen; colours only repeat what the words in the margin say."""
    console = Console(file=drawing_on(sys.stdout), highlight=False, soft_wrap=True)
    console.print(Text(one_line(heading)))
    for view in found:
        console.print(Text(f"\n{one_line(f'{view.origin}  {summary(view)}')}", style="bold"))
        for run in view.runs:
            margin = f"  {_word(run):<8}{run.tokens:>7,} │"
            for number, text in enumerate(printable(run.text).replace("\n", "↵\n").split("\n")):
                console.print(
                    Text(" " * (len(margin) - 1) + "│" if number else margin),
                    Text(text, _STYLES[run.kind]),
                    sep="",
                )


def _word(run: Run) -> str:
    """What stands in the margin: a picture is context, where nothing else is said of it."""
    return "picture" if run.picture is not None and run.kind == "context" else run.kind


def summary(view: View) -> str:
    """How many tokens of each kind, and what becomes of them."""
    counts = [f"{view.tokens(kind):,} {kind}" for kind in _KINDS if view.tokens(kind)]
    total = sum(run.tokens for run in view.runs)
    return f"{total:,} tokens: {', '.join(counts)}; {view.note}" if counts else view.note


def write_page(path: Path, heading: str, found: Sequence[View]) -> None:
    """As one HTML page, its pictures small and in it. Raises FolderInUseError for what exists and is no page,
    StorageError.
    """
    if path.exists() and (path.is_dir() or path.suffix.lower() not in (".html", ".htm")):
        raise FolderInUseError(f"{path}: exists, and is no HTML page; name a new file for --html")
    entries = [view.as_dict(_illustrated) | {"note": summary(view)} for view in found]
    write_texts(path, heading, entries)


def _illustrated(run: Run) -> dict[str, Any]:
    """A piece of a text; that of a picture with the picture made small, as the address of an image."""
    piece = run.as_dict()
    if run.picture is not None:
        small = base64.b64encode(thumbnail(run.picture)).decode()
        piece["picture"]["thumbnail"] = f"data:image/jpeg;base64,{small}"
    return piece
