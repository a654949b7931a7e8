"""`finetune init`: look at data and model, guess a configuration, write it with its reasons."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.chat.load import load_template, load_tokenizer
from finetune.chat.own_templates import lacking, suggest
from finetune.chat.template import ChatTemplate
from finetune.data.checking.check import CheckReport, all_of, check_data
from finetune.data.reading.intake import raise_problems
from finetune.data.reading.record import Malformed
from finetune.disk import is_utf8, refuse_existing_file, write_atomically
from finetune.errors import ConfigError, DataError, NoTemplateError
from finetune.init.files import DataFiles, find_files
from finetune.init.guess import Guess, Method, Survey, guess
from finetune.plain_json import read_json
from finetune.shipped import TEMPLATES, find_shipped, template_file

_COLUMN = 34
"""Where the reasons begin, but for longer lines."""


def init(
    data: str,
    model: str,
    output: Path,
    method: Method,
    chat_template: Path | None = None,
    *,
    remote_images: bool = False,
) -> list[str]:
    """Write `output` and return what to say: what was found, and the command that trains with it.

    Raises FolderInUseError where `output` exists, DataError for records that cannot be used.
    """
    refuse_existing_file(output)
    for name in (data, model, output):
        if not is_utf8(name):
            raise ConfigError(f"{str(name)!r}: not UTF-8; a YAML cannot hold such a name: rename it")
    files = find_files(data)
    named = _named(chat_template) or _suggested(files, model, remote_images)
    survey = survey_of(files, model, named, remote_images=remote_images)
    command = shlex.join(["finetune", "train", str(files.folder), model, str(output)])
    write_atomically(output, page(guess(survey, method), command, data).encode())
    shown = ", ".join(f"{name} ({count:,} records)" for name, count in survey.rows.items())
    unused = [f"not used: {', '.join(files.unused)}"] if files.unused else []
    return [f"{output}: from {shown}; every value has its reason beside it", *unused, command]


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """A chat template besides the checkpoint's own: as the YAML has it, where it lies, and why it is taken."""

    value: str
    file: Path
    why: str = "the checkpoint has none, or another"


def _named(chat_template: Path | None) -> NamedTemplate | None:
    """The template that was asked for: a file, or one of ours by its name."""
    if chat_template is None:
        return None
    name = str(chat_template)
    ours = name in TEMPLATES and not chat_template.is_file()
    return NamedTemplate(name, template_file(name) if ours else chat_template)


def _suggested(files: DataFiles, model: str, remote_images: bool) -> NamedTemplate | None:
    """One of ours for a checkpoint without a template, or without one that prints the tools there are."""
    try:
        template = load_template(model)
    except NoTemplateError:
        tokenizer, tools = load_tokenizer(model), _have_tools(files, remote_images)
        name, why = suggest(tokenizer, tools=tools)
        return NamedTemplate(name, template_file(name), f"the checkpoint has none; {why}")
    if template.dialect.tells_tools or not _have_tools(files, remote_images):
        return None
    name, why = suggest(template.tokenizer, tools=True)
    file = template_file(name)
    if lacking(template.tokenizer, file.read_text(encoding="utf-8")):
        return None
    return NamedTemplate(name, file, f"the checkpoint's prints no tools, and the data has some; {why}")


def _have_tools(files: DataFiles, remote_images: bool) -> bool:
    reports = _checked(files, None, remote_images).values()
    return any(report.counts["conversations with tools"] for report in reports)


def survey_of(
    files: DataFiles, model: str, named: NamedTemplate | None = None, *, remote_images: bool = False
) -> Survey:
    """Read every file and count its tokens as `model` does. Raises DataError with the first mistakes."""
    reports, drops_thoughts = _reports(files, model, None if named is None else named.file, remote_images)
    in_order = (sorted(report.problems, key=_position) for report in reports.values())
    problems = [problem for found in in_order for problem in found]
    rows = {name: report.rows for name, report in reports.items()}
    raise_problems(problems, sum(rows.values()), "mend them or take them out, and run init again")
    training = [reports[name] for name in files.train]
    answers = _longest([report.answers for report in reports.values()])
    if not any(report.answers for report in training):
        raise DataError(f"{', '.join(files.train)}: nothing to learn: no record has an answer")
    shape = _shape_of(model)
    return Survey(
        train=files.train,
        val=files.val,
        test=files.test,
        rows=rows,
        **_format(list(reports.values())),
        lengths=_longest([report.lengths for report in reports.values()]),
        answers=answers,
        context=_number(shape, "max_position_embeddings"),
        width=_number(shape, "hidden_size"),
        chat_template=None if named is None else (named.value, named.why),
        drops_thoughts=drops_thoughts,
        pictured=_pictured(reports),
        largest_image=max((tokens for report in reports.values() for tokens in report.pictures), default=0),
        remote_images=remote_images,
    )


def _reports(
    files: DataFiles, model: str, chat_template: Path | None, remote_images: bool
) -> tuple[dict[str, CheckReport], bool]:
    """What every file holds; without its thoughts where the model's template has words for all but those."""
    template = load_template(model, chat_template=chat_template)
    reports = _checked(files, template, remote_images)
    _refuse_unseen(reports, model, template)
    if template.dialect.thinks or not any(report.problems for report in reports.values()):
        return reports, False
    template = load_template(model, chat_template=chat_template, thinking="drop")
    without = _checked(files, template, remote_images)
    return (reports, False) if any(report.problems for report in without.values()) else (without, True)


def _checked(files: DataFiles, template: ChatTemplate | None, remote_images: bool) -> dict[str, CheckReport]:
    def checked(path: Path) -> CheckReport:
        return check_data(path, template, all_of(path, remote_images=remote_images))

    return {name: checked(files.path(name)) for name in files.all}


def _refuse_unseen(reports: Mapping[str, CheckReport], model: str, template: ChatTemplate) -> None:
    """Raises DataError where there are images, and the model sees none."""
    pictured = _pictured(reports)
    if pictured and template.sight is None:
        records = f"{pictured:,} of {sum(report.rows for report in reports.values()):,} records"
        raise DataError(
            f"{records} have images, which cannot be trained with {model}: it sees none, or in a way that is "
            "not known here; name a model that sees, as THUDM/GLM-4.1V-9B-Thinking, or take those records out"
        )


def _pictured(reports: Mapping[str, CheckReport]) -> int:
    return sum(report.counts["conversations with images"] for report in reports.values())


def _position(problem: Malformed) -> tuple[str, int, int]:
    return problem.source, problem.line, problem.column


def _format(reports: Sequence[CheckReport]) -> dict[str, str]:
    """The one format all files have, and why; `auto` where they differ."""
    found = {report.format: report.why for report in reports}
    if len(found) == 1 and "," not in reports[0].format:
        return {"format": reports[0].format, "why": reports[0].why}
    return {"format": "auto", "why": f"the files differ: {', '.join(found)}"}


def _longest(lengths: Sequence[Mapping[int, int]]) -> dict[int, int]:
    """Percentile -> tokens, of the file where they are most."""
    percents = dict.fromkeys(percent for one in lengths for percent in one)
    return {percent: max(one.get(percent, 0) for one in lengths) for percent in percents}


def _shape_of(model: str) -> dict[str, Any]:
    """The text model's part of a model folder's config.json; empty for a Hub id."""
    file = Path(model) / "config.json"
    try:
        config = read_json(file) if file.is_file() else {}
    except ValueError:
        return {}
    text = config.get("text_config", config) if isinstance(config, dict) else {}
    return text if isinstance(text, dict) else {}


def _number(shape: dict[str, Any], key: str) -> int:
    value = shape.get(key)
    return value if isinstance(value, int) else 0


def page(guesses: Sequence[Guess], command: str, data: str) -> str:
    """The YAML, with a head that says where it comes from and how to use it."""
    return "\n".join([*_head(command, data), "", *_body(guesses)]) + "\n"


def _head(command: str, data: str) -> Iterator[str]:
    schema = find_shipped("schema.json")
    if schema is not None:  # as a URL: the line ends at a space
        yield f"# yaml-language-server: $schema={schema.resolve().as_uri()}"
    yield f"# {command}"
    yield "#"
    yield f"# Guessed by finetune init from {data}. finetune explain KEY says what a key does."


def _body(guesses: Sequence[Guess]) -> Iterator[str]:
    opened = ""
    for one in guesses:
        level, _, key = one.key.rpartition(".")
        if level and level != opened:
            yield f"{level}:"
        opened = level
        yield _line("  " if level else "", key, one)


def _line(indent: str, key: str, one: Guess) -> str:
    if not one.value:
        return f"{indent}# {key}: {one.why}"
    return f"{f'{indent}{key}: {one.value}':{_COLUMN}}  # {one.why}"
