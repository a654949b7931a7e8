"""A conversation at the terminal: answers on stdout as they are written, everything else on stderr.

One line is one turn, typed or piped. After a tool call the next line is the tool's result.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path

from finetune.chat.messages import Conversation, Image, Message, Tool
from finetune.data.encode import REFUSALS, Prompt, prompt_of
from finetune.data.images.access import Access, settled
from finetune.data.images.picture import Picture
from finetune.data.images.wrong import WrongImageError
from finetune.data.reading.fields import WrongRecordError
from finetune.data.reading.pictures import picture_of
from finetune.errors import ConfigError, DataError, ModelError
from finetune.infer.engine import AnswerNumber, Completion, Engine, Sampling
from finetune.printing import Lines, one_line, printable

Read = Callable[[str], str | None]
"""Shows a prompt and returns a line, without its end; None: there are no more."""

HELP = """\
/image PATH   show a picture with the next line; may be repeated
/clear        forget the conversation
/exit         leave (or Ctrl-D)
/help         this
Ctrl-C stops an answer. After a tool call, type the tool's result.
A line that begins with // is sent with one slash."""


@dataclass
class Speaker:
    """One who answers, and the conversation as it went with them."""

    label: str
    switched: Callable[[], AbstractContextManager[None]]
    history: list[Message] = field(default_factory=list)

    def awaits_result(self) -> bool:
        """True: the last turn was a tool call, so the next line is its result."""
        return bool(self.history) and bool(self.history[-1].tool_calls)


def chat(
    engine: Engine,
    sampling: Sampling,
    *,
    vs_base: bool = False,
    system: str | None = None,
    tools: Sequence[Tool] = (),
    images: Sequence[str] = (),
    read: Read | None = None,
) -> None:
    """Talk until /exit or the end of input.

    `vs_base`: every line is answered twice, with the adapter and without, each in a conversation of its own.
    `images`: paths of pictures to show with the first line.
    Raises ConfigError for `vs_base` without an adapter, DataError for a picture that cannot be used, ModelError
    for one where the model sees none.
    """
    if vs_base and not engine.has_adapter:
        raise ConfigError(
            "--vs-base: this model has no adapter to switch off; give an adapter or a run with one"
        )
    shown = [_picture(engine, path)[0] for path in images]
    opening = [Message("system", system)] if system else []
    speakers = _speakers(engine, vs_base)
    _clear(speakers, opening)
    if read is None and sys.stdin.isatty():
        _note("/help tells the commands; /exit leaves")
    read = read or _stdin()
    while (line := _next_line(read, speakers)) is not None:
        match line.strip():
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/help":
                _note(Lines(HELP.splitlines()))
            case "/clear":
                _clear(speakers, opening)
                shown.clear()
                _note("the conversation is forgotten")
            case command if command.split()[0].lower() == "/image":
                shown += _image(engine, command[len("/image") :].strip())
            case command if command.startswith("/") and command[1:].isalpha():
                _note(f"{command}: no such command; /help tells them all, //{command[1:]} sends it")
            case _:
                text = line[1:] if line.startswith("//") else line
                asked = Message("user", text, images=tuple(shown))
                for speaker in speakers:
                    _turn(engine, speaker, asked, sampling, tools)
                shown.clear()


def _speakers(engine: Engine, vs_base: bool) -> list[Speaker]:
    if not vs_base:
        return [Speaker("", nullcontext)]
    return [Speaker("base> ", engine.without_adapter), Speaker("tuned> ", nullcontext)]


def _clear(speakers: Sequence[Speaker], opening: Sequence[Message]) -> None:
    for speaker in speakers:
        speaker.history = list(opening)


def _next_line(read: Read, speakers: Sequence[Speaker]) -> str | None:
    """The next line, None at the end. Ctrl-C here only says how to leave."""
    prompt = "result> " if any(speaker.awaits_result() for speaker in speakers) else "you> "
    while True:
        try:
            return read(prompt)
        except KeyboardInterrupt:
            _note(Lines(["", "/exit or Ctrl-D leaves"]))


def _image(engine: Engine, path: str) -> list[Image]:
    """The picture at `path`, if it is one and the model sees; else says why not."""
    try:
        image, picture = _picture(engine, path)
    except (DataError, ModelError) as error:
        _note(f"error: {error}")
        return []
    _note(f"[{path}: {picture.width} x {picture.height} pixels, shown with the next line]")
    return [image]


def _picture(engine: Engine, path: str) -> tuple[Image, Picture]:
    """The picture at `path`, wherever that is: the person who talks names it."""
    if engine.template.sight is None or engine.template.dialect.image_token is None:
        raise ModelError("this model sees no pictures")
    try:
        image = settled(Image(_home(_unquoted(path))), Path.cwd(), Access((Path("/"),)))
        picture = picture_of(image, engine.template.sight)
    except (WrongImageError, WrongRecordError) as wrong:
        raise DataError(wrong.reason) from None
    return image, picture


def _unquoted(path: str) -> str:
    """A path as a terminal pastes it, without its quotes and backslashes; where a file has these, as it is."""
    if Path(_home(path)).exists():
        return path
    try:
        words = shlex.split(path)
    except ValueError:  # a quote that is not closed
        return path
    return words[0] if len(words) == 1 and Path(_home(words[0])).exists() else path


def _home(path: str) -> str:
    """Only ~ is taken for something else: as a Path, an address would lose a slash."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _turn(engine: Engine, speaker: Speaker, said: Message, sampling: Sampling, tools: Sequence[Tool]) -> None:
    """Put a line to a speaker, show the answer as it comes and remember it; a refused line is forgotten."""
    asked = replace(said, role="tool") if speaker.awaits_result() else said
    conversation = Conversation((*speaker.history, asked), tuple(tools))
    try:
        prompt = prompt_of(engine.template, conversation)
    except REFUSALS as error:
        _note(f"error: {error}")
        return
    print(speaker.label, end="", flush=True)
    with speaker.switched():
        answer = _show(engine, prompt, sampling, AnswerNumber(0, len(conversation.messages)))
    if answer.content or answer.tool_calls:
        speaker.history += [asked, answer]
    else:
        _note("[no answer; the line is forgotten]")


def _show(engine: Engine, prompt: Prompt, sampling: Sampling, number: AnswerNumber) -> Message:
    """Write the answer while it comes. Ctrl-C stops it, and what was said so far counts as the answer."""
    said = ""
    pieces = engine.stream(prompt, sampling, number)
    try:
        while True:
            piece = next(pieces)
            # The first line end is the format's, not the answer's.
            shown = piece if said else piece.lstrip()
            said += shown
            print(printable(shown), end="", flush=True)
    except StopIteration as end:
        print(flush=True)
        return _message(engine, end.value)
    except KeyboardInterrupt:
        pieces.close()
        print(flush=True)
        _note("[stopped]")
        return Message("assistant", said)


def _message(engine: Engine, completion: Completion) -> Message:
    """The answer as a message, with a word about what the text alone does not show."""
    message = engine.template.parse(completion.ids)
    if completion.finish == "length":
        _note("[cut off at max_new_tokens]")
    for call in message.tool_calls:
        arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        _note(f"[tool call: {call.name}({arguments}); the next line is its result]")
    return message


def _stdin() -> Read:
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return _read_line


def _read_line(prompt: str) -> str | None:
    """A line from the terminal, with its editing keys, or from a pipe."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        import readline  # noqa: F401  (gives input() arrows and history)

        try:
            return input(prompt)
        except EOFError:
            _note("")
            return None
    if sys.stdin.isatty():
        print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def _note(text: str) -> None:
    """A line of ours, or several where they are `Lines`."""
    print(text if isinstance(text, Lines) else one_line(text), file=sys.stderr, flush=True)
