"""In front of everything printed: no text of a stranger's steers the terminal, forges a line or tells a secret.

Names of files, keys, tools, messages of templates and what a model writes may hold escape sequences (OSC 52
writes the clipboard), characters that turn the order of letters, and line ends that look like another message.

    guarded()        both streams of the process escape what steers, whoever writes to them
    one_line(text)   a message that is meant to be one line stays one
    Lines            a message that is meant to be several, each of them one line
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO, cast

from finetune.redaction import redacted

_TURNING = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_STEERING = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_TURNING}]")
_TURNERS = re.compile(f"[{_TURNING}]")
_ENDS = re.compile("[\n\u2028\u2029]")
_UP = re.compile("\n*(\x1b\\[A)+")
"""How a library moves from one of its progress bars to another."""


class Lines(str):
    """Several lines, made of texts that are one line each: the only message that may have line ends."""

    __slots__ = ()

    def __new__(cls, lines: Iterable[str]) -> "Lines":
        return super().__new__(
            cls, "\n".join(line if isinstance(line, Lines) else one_line(line) for line in lines)
        )


def printable(text: str) -> str:
    """With characters that would steer a terminal, or turn the order of letters, as escapes."""
    return _STEERING.sub(_escape, text)


def visibly_turned(text: str) -> str:
    """With characters that turn the order of letters as escapes, and all others as they are: for a page."""
    return _TURNERS.sub(_escape, text)


def one_line(text: str) -> str:
    """Likewise, and line ends too."""
    return printable(_ENDS.sub(_escape, text))


def _escape(found: re.Match[str]) -> str:
    """`\\x1b`, `\\n`; above ASCII `\\u202e`, so that JSON stays JSON."""
    character = found[0]
    return character.encode("unicode_escape").decode() if character < "\x7f" else f"\\u{ord(character):04x}"


class Guarded(TextIOWrapper):
    """A standard stream through which nothing steers the terminal, and on stderr no secret is told.

    raw: the stream itself, for what draws on the terminal on purpose and escapes its texts.
    """

    def __init__(self, raw: TextIOWrapper, *, messages: bool) -> None:
        super().__init__(
            raw.buffer,
            encoding=raw.encoding,
            errors="backslashreplace",  # a terminal that is not UTF-8 gets escapes, not a traceback
            newline="\n",
            line_buffering=raw.line_buffering,
            write_through=True,
        )
        self.raw, self._messages = raw, messages

    def write(self, text: str) -> int:
        """Escape and write; returns how many characters were given."""
        super().write(_of_library(text) if self._messages else printable(text))
        return len(text)


class Beside:
    """A stream in front of rich's, which takes escape sequences for its own while a line is live."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Escape and write; returns how many characters were given."""
        self._stream.write(printable(redacted(text)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _of_library(text: str) -> str:
    """What is written to stderr: progress bars may go back to the start of their line, or up."""
    if _UP.fullmatch(text):
        return text
    back = "\r" if text.startswith("\r") else ""
    return back + printable(redacted(text[len(back) :]))


_installed: list[Guarded] = []
"""Never collected: a stream that goes closes what lies below it."""


@contextmanager
def guarded() -> Iterator[None]:
    """While entered, stdout and stderr are guarded."""
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if isinstance(stream, TextIOWrapper) and not isinstance(stream, Guarded):
            stream.flush()
            _installed.append(Guarded(stream, messages=name == "stderr"))
            setattr(sys, name, _installed[-1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def in_front_of_rich() -> Iterator[None]:
    """While rich has put its own streams in the place of stdout and stderr, escape what is written there."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Beside(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def drawing_on(stream: TextIO) -> TextIO:
    """The stream below the guard, for rich: who draws here escapes the texts that it is given."""
    return stream.raw if isinstance(stream, Guarded) else stream
