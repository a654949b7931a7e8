"""docs/templates.md: what is found out about each family, by its habits and by a few small renderings."""

from collections.abc import Callable
from pathlib import Path

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.chat.template import ChatTemplate
from finetune.errors import TemplateError
from tests.chat.conftest import FAMILIES, make_family

PAGE = Path(__file__).parents[2] / "docs" / "templates.md"
_BEGIN, _END = "<!-- table: python -m tests.golden -->", "<!-- end of table -->"

_CALL = ToolCall("f", {"x": 1})
_TOOLS = (Tool("f"),)
_NO = "–"

Cell = Callable[[ChatTemplate], str]


def _system(template: ChatTemplate) -> str:
    return "yes" if template.dialect.wishes.system_role else "opens the next question"


def _tools(template: ChatTemplate) -> str:
    if not template.dialect.tells_tools:
        return _NO
    return "on a message" if template.dialect.wishes.tools_on_message else "argument"


def _calls(template: ChatTemplate) -> str:
    if template.dialect.call_end is None:
        return _NO
    several = Conversation((Message("user", "q"), Message("assistant", "", (_CALL, _CALL))))
    return "several" if _texts(template, several) else "one a turn"


def _text_beside(template: ChatTemplate) -> str:
    if template.dialect.call_end is None:
        return _NO
    return "yes" if template.dialect.says_before_calls else "refused"


def _results(template: ChatTemplate) -> str:
    return "yes" if template.dialect.tells_results else _NO


def _read_back(template: ChatTemplate) -> str:
    return "yes" if template.dialect.read_calls else _NO


def _thoughts(template: ChatTemplate) -> str:
    return "yes" if template.dialect.thinks else "refused"


def _history(template: ChatTemplate) -> str:
    if not template.dialect.thinks:
        return _NO
    asked_again = Conversation(
        (Message("user", "q"), Message("assistant", "a", reasoning="Qthoughtq"), Message("user", "q"))
    )
    return "kept" if "Qthoughtq" in template.prompt_text(asked_again) else "dropped"


def _opens(template: ChatTemplate) -> str:
    return "yes" if template.dialect.opens_thoughts else _NO


def _stops(template: ChatTemplate) -> str:
    habits = template.dialect
    ends = dict.fromkeys([habits.answer_end, habits.call_end or habits.answer_end])
    return ", ".join(f"`{end}`" for end in ends)


def _examples(template: ChatTemplate) -> str:
    """How many examples two answers make, without thoughts and with."""
    counts = [_texts(template, _twice(thoughts)) for thoughts in (None, "t")]
    spoken = {0: "", 1: "one", 2: "one a turn"}
    plain, thinking = (spoken[count] for count in counts)
    return plain if thinking in ("", plain) else f"{plain}; with thoughts {thinking}"


def _twice(thoughts: str | None) -> Conversation:
    turns = [Message("user", "q"), Message("assistant", "a", reasoning=thoughts)]
    return Conversation((*turns, *turns))


def _texts(template: ChatTemplate, conversation: Conversation) -> int:
    try:
        return len(template.render(conversation))
    except TemplateError:
        return 0


COLUMNS: dict[str, Cell] = {
    "system text": _system,
    "tools": _tools,
    "tool calls": _calls,
    "text before a call": _text_beside,
    "results": _results,
    "calls read back": _read_back,
    "thoughts": _thoughts,
    "in history": _history,
    "prompt opens them": _opens,
    "stop token of an answer, a call": _stops,
    "examples of a conversation": _examples,
}


def table() -> str:
    """One row for each family."""
    names = ["family", *COLUMNS]
    rows = [names, ["---"] * len(names), *(_row(name) for name in FAMILIES)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(name: str) -> list[str]:
    template = make_family(name)
    return [f"`{name}`", *(cell(template).replace("|", r"\|") for cell in COLUMNS.values())]


def page() -> str:
    """docs/templates.md with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{before}{_BEGIN}\n\n{table()}\n\n{_END}{rest.partition(_END)[2]}"
