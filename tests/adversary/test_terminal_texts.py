"""No text of a stranger's steers the terminal or forges a line, wherever it comes from."""

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune import log
from finetune.errors import ConfigError, DataError
from finetune.infer.engine import Sampling
from finetune.printing import Lines, one_line, printable
from finetune.serve.terminal import _show

STEERS = {
    "clear the screen": "\x1b[2J",
    "write the clipboard (OSC 52)": "\x1b]52;c;cm0gLXJm\x07",
    "a link (OSC 8)": "\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\",
    "the title (OSC 0)": "\x1b]0;owned\x07",
    "one byte instead of ESC [": "\x9b2J",
    "one byte instead of ESC ]": "\x9d52;c;cm0=\x9c",
    "device control": "\x90q\x9c",
    "back to the start of the line": "good\rbad",
    "backspaces": "no\b\byes",
    "delete": "\x7f",
    "vertical tab and form feed": "\x0b\x0c",
    "null": "\0",
    "right to left": "\u202egnp.exe",
    "isolates": "\u2066a\u2069\u2067b\u2069\u2068",
    "marks": "\u200e\u200f\u061c",
    "shift out": "\x0e\x0f",
}
STEERING = {chr(c) for c in (*range(9), *range(11, 32), *range(127, 160))} | set(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
)
KEPT = ["plain", "你好 🍎", "👩\u200d🚀", "tab\tand\nline", "עברית", "é e\u0301"]


@pytest.mark.parametrize("kind", STEERS)
def test_what_steers_is_spelt_out(kind: str) -> None:
    shown = printable(STEERS[kind])
    assert not STEERING & set(shown) and "\\" in shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", KEPT)
def test_all_other_text_is_as_it_was(text: str) -> None:
    assert printable(text) == text


def test_json_stays_json() -> None:
    value = {"name": "\x9b\u202e\x7f\u200f", "c": "\x1b\n"}
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\u2029", "\x85", "\x0b"])
def test_a_name_does_not_forge_a_line(end: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"a{end}error: all is lost{end}"
    log.info(f"{name}: found")
    log.warning(f"{name}: odd")
    log.failure(DataError(f"{name}: wrong"))
    log.failure(ConfigError(Lines([f"{name}: one", "c.yaml:2:1: two"])))
    log.failure(FileNotFoundError(2, "No such file", name))
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 6, told
    assert not any(line.startswith("error: all") for line in told.splitlines())


def test_lines_are_one_line_each() -> None:
    assert Lines(["a\nb", Lines(["c", "d"]), "\x1b"]) == "a\\nb\nc\nd\n\\x1b"
    assert one_line("a\nb\tc") == "a\\nb\tc"


@pytest.mark.parametrize("kind", STEERS)
def test_an_answer_in_chat_has_its_lines_and_steers_nothing(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stream(*_: object) -> Generator[str, None, Any]:
        yield "first\n"
        yield from STEERS[kind]  # one character at a time
        return SimpleNamespace(ids=[], finish="stop")

    spoken = SimpleNamespace(tool_calls=(SimpleNamespace(name=STEERS[kind], arguments={STEERS[kind]: 1}),))
    engine: Any = SimpleNamespace(stream=stream, template=SimpleNamespace(parse=lambda _: spoken))
    _show(engine, None, Sampling(), None)  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out.startswith("first\n")
    assert not STEERING & set(said.out + said.err)
    assert len(said.err.splitlines()) == 1


WRITERS = """
import logging, sys, warnings
from finetune.printing import guarded
text = "\\x1b]52;c;eA==\\x07\\x9b2J\\u202e"
with guarded():
    print(text)
    print(text, file=sys.stderr)
    sys.stdout.writelines([text, "\\n"])
    logging.getLogger("library").warning(text)
    warnings.warn(text)
    sys.stderr.write("\\rloading " + text)
    try:
        raise ValueError(text)
    except ValueError:
        import traceback
        traceback.print_exc()
"""


def test_whatever_writes_to_the_streams_of_the_command_is_guarded() -> None:
    done = subprocess.run([sys.executable, "-c", WRITERS], capture_output=True, check=True)
    said = (done.stdout + done.stderr).decode()
    assert not STEERING - {"\r"} & set(said)
    assert said.count("\\x1b]52;c;eA==\\x07") >= 7
    assert said.count("\r") == 1


def test_the_command_shows_a_file_name_as_one_harmless_line(tmp_path: Path) -> None:
    data = tmp_path / "x\n\x1b]52;c;eA==\x07\u202eerror: forged.jsonl"
    data.write_text('{"messages": [{"role": "\x7fwho\\u001b[2J", "content": "a"}], "\\u001b[2J\\n": 1}\n')
    command = [sys.executable, "-m", "finetune", "check", str(data)]
    done = subprocess.run(command, capture_output=True)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 2, said
    assert not STEERING & set(said)
    assert not any(
        "forged" in line and line.startswith(("\\x1b", "error: forged")) for line in said.splitlines()
    )


BESIDE_A_BAR = """
import sys
from finetune import log
from finetune.printing import guarded
with guarded(), log.progress("one [link=x]\\x1b]52;c;bar\\x07", 2) as advance:
    log.info("\\x1b]52;c;told\\x07")
    sys.stderr.write("\\x9d52;c;library\\x9c\\u202e\\n")
    print("\\x9d52;c;result\\x9c\\u202e")
    advance(1)
"""


def test_what_is_written_while_a_bar_is_drawn_is_guarded_too() -> None:
    import os
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", BESIDE_A_BAR], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0, said.decode()
    assert not set("\x07\x9c\x9d\u202e") & set(said.decode()) and b"\x1b]" not in said
    for name in (b"told", b"library", b"result", b"bar"):
        assert name in said
