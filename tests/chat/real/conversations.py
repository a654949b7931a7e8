"""Conversations that people tune on, one kind each, with words that stand in no template: what is looked for.

Words of a turn end in its place: `Qzask0w` is said in message 0. Dicts are OpenAI's, as data files have them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Dict = dict[str, Any]
COLUMNS = ("plain", "system", "multi-turn", "tools", "parallel", "thinking")


@dataclass(frozen=True)
class Talk:
    """One conversation; `column`: where in the table it counts."""

    column: str
    name: str
    messages: Sequence[Dict]
    tools: Sequence[Dict] = ()

    @property
    def record(self) -> Mapping[str, Any]:
        """As a line of a data file."""
        return {"messages": [*self.messages], **({"tools": [*self.tools]} if self.tools else {})}


def system(text: str = "Qzrulew") -> Dict:
    return {"role": "system", "content": text}


def ask(text: str) -> Dict:
    return {"role": "user", "content": text}


def say(text: str, **more: Any) -> Dict:
    return {"role": "assistant", "content": text, **more}


def think(thought: str, text: str, *calls: Dict) -> Dict:
    said = say(text, reasoning_content=thought)
    return said | {"tool_calls": [*calls]} if calls else said


def call(name: str, **arguments: Any) -> Dict:
    return {
        "id": f"id{name}{len(str(arguments))}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def calling(*calls: Dict, text: str | None = "") -> Dict:
    return {"role": "assistant", "content": text, "tool_calls": [*calls]}


def result(text: str) -> Dict:
    return {"role": "tool", "content": text}


def tool(name: str, *keys: str) -> Dict:
    properties = {key: {"type": "string", "description": f"the {key}"} for key in keys}
    parameters = {"type": "object", "properties": properties, "required": [*keys]}
    function = {"name": name, "description": f"Look up by {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER, TIME = tool("qzweatherw", "city"), tool("qztimew", "zone")
BOTH = (WEATHER, TIME)
OSLO, ROME = call("qzweatherw", city="Qzoslow"), call("qzweatherw", city="Qzromanw")
NOON = call("qztimew", zone="Qzzonew")
ASK = ask("Qzask0w?")

TALKS = (
    Talk("plain", "an answer", [ASK, say("Qzsay1w.")]),
    Talk("plain", "lines", [ask("Qzask0w\n\nin lines\n"), say("Qzsay1w\n\n- one\n- two")]),
    Talk("plain", "leading newlines", [ASK, say("\n\nQzsay1w")]),
    Talk("plain", "leading spaces", [ask("  Qzask0w"), say("   Qzsay1w")]),
    Talk("plain", "trailing white space", [ASK, say("Qzsay1w \n")]),
    Talk("plain", "code", [ASK, say('Qzsay1w:\n```python\n{"a": [1, 2]}\n    x = "</b>"\n```')]),
    Talk("plain", "other scripts", [ask("Qzask0w 你好，北京？"), say("Qzsay1w 今天晴 🌤️ ñ")]),
    Talk("plain", "an answer in quotes", [ask('"Qzask0w" {x}'), say("'Qzsay1w' & <i>")]),
    Talk("system", "a system text", [system(), ASK, say("Qzsay1w.")]),
    Talk("system", "in lines", [system("Qzrulew\n\n1. brief\n2. kind"), ASK, say("Qzsay1w.")]),
    Talk("system", "two turns", [system(), ASK, say("Qzsay1w."), ask("Qzask2w"), say("Qzsay3w")]),
    Talk("multi-turn", "two turns", [ASK, say("Qzsay1w."), ask("Qzask2w"), say("Qzsay3w")]),
    Talk(
        "multi-turn",
        "three turns",
        [ASK, say("Qzsay1w."), ask("Qzask2w"), say("Qzsay3w"), ask("Qzask4w"), say("Qzsay5w")],
    ),
    Talk("multi-turn", "newlines", [ASK, say("\n\nQzsay1w"), ask("\nQzask2w"), say("\n\nQzsay3w\n")]),
    Talk("multi-turn", "spaces", [ask("  Qzask0w"), say("  Qzsay1w"), ask("   Qzask2w"), say("  Qzsay3w")]),
    Talk(
        "multi-turn",
        "one turn not trained",
        [ASK, say("Qzsay1w.", train=False), ask("Qzask2w"), say("Qzsay3w")],
    ),
    Talk("tools", "tools and no call", [ASK, say("Qzsay1w.")], BOTH),
    Talk("tools", "a call", [ASK, calling(OSLO)], BOTH),
    Talk("tools", "a call with null content", [ASK, calling(OSLO, text=None)], BOTH),
    Talk(
        "tools",
        "a call of two arguments",
        [ASK, calling(call("qzweatherw", city="Qzoslow", unit="Qzdegw"))],
        BOTH,
    ),
    Talk("tools", "text and a call", [ASK, calling(OSLO, text="Qzfirstw.")], BOTH),
    Talk("tools", "a result", [ASK, calling(OSLO), result("Qzsunnyw"), say("Qzsay3w.")], BOTH),
    Talk(
        "tools",
        "a call after a call",
        [ASK, calling(OSLO), result("Qzsunnyw"), calling(NOON), result("Qztwelvew"), say("Qzsay5w")],
        BOTH,
    ),
    Talk(
        "tools",
        "a question after it",
        [ASK, calling(OSLO), result("Qzsunnyw"), say("Qzsay3w."), ask("Qzask4w"), say("Qzsay5w")],
        BOTH,
    ),
    Talk(
        "tools",
        "a call in the second turn",
        [ASK, say("Qzsay1w"), ask("Qzask2w"), calling(NOON), result("Qztwelvew"), say("Qzsay5w")],
        BOTH,
    ),
    Talk("tools", "a system text", [system(), ASK, calling(OSLO), result("Qzsunnyw"), say("Qzsay4w")], BOTH),
    Talk("tools", "a JSON result", [ASK, calling(OSLO), result('{"t": "Qzsunnyw"}'), say("Qzsay3w")], BOTH),
    Talk(
        "tools",
        "values of all kinds",
        [ASK, calling(call("qzweatherw", city="Qzoslow", days=3, exact=True, note=None, tags=["Qztagw", 2]))],
        BOTH,
    ),
    Talk("tools", "values in lines", [ASK, calling(call("qzweatherw", city='Qzoslow\n"北京"'))], BOTH),
    Talk("parallel", "two calls", [ASK, calling(OSLO, ROME)], BOTH),
    Talk("parallel", "two functions", [ASK, calling(OSLO, NOON)], BOTH),
    Talk(
        "parallel",
        "two results",
        [ASK, calling(OSLO, NOON), result("Qzsunnyw"), result("Qztwelvew"), say("Qzsay4w")],
        BOTH,
    ),
    Talk("parallel", "text and two calls", [ASK, calling(OSLO, NOON, text="Qzfirstw.")], BOTH),
    Talk("parallel", "three calls", [ASK, calling(OSLO, NOON, ROME)], BOTH),
    Talk("thinking", "a thought", [ASK, think("Qzwhy1w", "Qzsay1w.")]),
    Talk("thinking", "in lines", [ASK, think("Qzwhy1w\n\nso:", "Qzsay1w\n\n.")]),
    Talk("thinking", "in the text", [ASK, say("<think>\nQzwhy1w\n</think>\n\nQzsay1w.")]),
    Talk("thinking", "a system text", [system(), ASK, think("Qzwhy1w", "Qzsay2w.")]),
    Talk(
        "thinking",
        "in every turn",
        [ASK, think("Qzwhy1w", "Qzsay1w."), ask("Qzask2w"), think("Qzwhy3w", "Qzsay3w")],
    ),
    Talk("thinking", "in the last turn", [ASK, say("Qzsay1w."), ask("Qzask2w"), think("Qzwhy3w", "Qzsay3w")]),
    Talk("thinking", "in the first turn", [ASK, think("Qzwhy1w", "Qzsay1w."), ask("Qzask2w"), say("Qzsay3w")]),
    Talk("thinking", "empty", [ASK, think("", "Qzsay1w.")]),
    Talk("thinking", "before a call", [ASK, think("Qzwhy1w", "", OSLO)], BOTH),
    Talk(
        "thinking",
        "around a result",
        [ASK, think("Qzwhy1w", "", OSLO), result("Qzsunnyw"), think("Qzwhy3w", "Qzsay3w")],
        BOTH,
    ),
)
