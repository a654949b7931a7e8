"""How a chat template spells tool calls, learnt by rendering calls whose parts are known and looking for them.

What stands between the parts is the spelling: before the first call, between a name and its arguments, behind a
value, between two calls, at the end. Calls that were not used for learning must then be read back as what they
are, or there is no reader.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from finetune.chat.call_patterns import ANY_KEY, ANY_NAME, WORD_KEY, agreed, end_pattern, pattern
from finetune.chat.call_probes import ARGUMENTS, BEFORE, IDS, KEY, MORE, NAMES, VALUE, Probes, Write, reads_back
from finetune.chat.calls import CallForm, CallReader, JsonCalls, KeyedCalls, NamedCalls, Path, ValueForm
from finetune.chat.literals import JSON, Literals

_ODD_TEXTS = ("Qz\"v'w\\x\ny", "Qz<v>&q")
_PROBED: Mapping[str, tuple[Any, str]] = {
    "int": (70417, "70417"),
    "float": (704.25, r"704\.25"),
    "bool": (True, "[Tt]rue"),
    "null": (None, "null|None"),
    "list": ([70417], r"\[\s*70417\s*\]"),
    "object": ({"qzinq": 70417}, r"\{\s*\W*qzinq\W*\s*70417\s*\}"),
}


def learn_calls(write: Write) -> CallReader | None:
    """The reader of the calls that `write` spells; None where none reads all of them back."""
    probes = Probes(write)
    for learn in (_json_calls, _named_calls, _keyed_calls):
        reader = learn(probes)
        if reader is not None and reads_back(reader, write):
            return reader
    return None


def _reader(
    probes: Probes, form: CallForm, start: Callable[[str], int | None], ahead: str, *, several: bool
) -> CallReader | None:
    """`start`: where in a text the first call begins; `ahead`: what it begins with."""
    at = start(probes.one)
    if at is None:
        return None
    before, after_text, lead = probes.one[:at], None, ""
    if probes.saying is not None:
        lead, _, rest = probes.saying.partition(BEFORE)
        after_text = rest[: start(rest)]
    elif before.strip():
        after_text = before
    apart = r"(?<!\w)" if ahead.startswith(ANY_NAME) else ""  # nothing but white space stands between
    return CallReader(
        form,
        re.compile(r"\s*+" + pattern(before.lstrip()) + f"(?={ahead})"),
        None if after_text is None else re.compile((pattern(after_text.lstrip()) or apart) + f"(?={ahead})"),
        re.compile(r"\A\s*+" + pattern(lead.lstrip(), groups=False) if lead.strip() else r"\A(?!)"),
        several,
    )


# ---------------------------------------------------------------- a JSON value of name and arguments


def _json_calls(probes: Probes) -> CallReader | None:
    if (found := _json_value(probes.one, NAMES[0])) is None:
        return None
    _, end, value = found
    call = value[0] if isinstance(value, list) else value
    name, arguments = _path(call, NAMES[0]), _path(call, ARGUMENTS)
    if name is None or arguments is None:
        return None
    between = _between_values(probes) if isinstance(value, Mapping) else None
    several = probes.count > 1 and (isinstance(value, list) or between is not None)
    form = JsonCalls(
        re.compile(pattern(between, groups=False) + r"(?=\{)") if between is not None else None,
        re.compile(end_pattern(probes.one[end:])),
        name,
        arguments,
        _path(call, IDS[0]),
    )
    return _reader(probes, form, _json_start, r"[\[{]", several=several)


def _json_start(text: str) -> int | None:
    found = _json_value(text, NAMES[0])
    return found[0] if found else None


def _json_value(text: str, name: str) -> tuple[int, int, Any] | None:
    """The first JSON value in which `name` is a key or a text: its start, its end and itself."""
    for bracket in re.finditer(r"[\[{]", text):
        try:
            value, end = JSON.raw_decode(text, bracket.start())
        except (ValueError, RecursionError):
            continue
        item = value[0] if isinstance(value, list) and value else value
        if _path(item, name) is not None:
            return bracket.start(), end, value
    return None


def _between_values(probes: Probes) -> str | None:
    """What stands between the JSON values of several calls."""
    text = probes.calls(*[ARGUMENTS] * probes.count) or ""
    spans = [span for name in NAMES[: probes.count] if (span := _json_value(text, name))]
    return agreed(*(text[one[1] : other[0]] for one, other in pairwise(spans)))


def _path(value: Any, wanted: Any) -> Path | None:
    """Where `wanted` stands in an object: a text, a key, or an object, be it as JSON in a text."""
    if not isinstance(value, Mapping):
        return None
    for key, item in value.items():
        step: str | int = 1 if key in NAMES else key
        if key == wanted:
            return (0,)
        if item == wanted or (isinstance(item, str) and item == json.dumps(wanted)):
            return (step,)
        if (inside := _path(item, wanted)) is not None:
            return (step, *inside)
    return None


# ---------------------------------------------------------------- a name, and arguments as JSON


def _named_calls(probes: Probes) -> CallReader | None:
    pieces = probes.after_names(ARGUMENTS)
    if pieces is None or (one := _around_arguments(pieces[0])) is None:
        return None
    several = [around for piece in probes.several(ARGUMENTS) if (around := _around_arguments(piece))]
    middle = agreed(one[0], *(around[0] for around in several))
    between = agreed(*(around[1] for around in several[:-1]))
    if middle is None:
        return None
    ahead = ANY_NAME + pattern(middle, groups=False) + r"\s*+(?=\{)"
    form = NamedCalls(
        re.compile(f"(?P<name>{ANY_NAME})" + pattern(middle) + r"\s*+(?=\{)"),
        re.compile(pattern(between) + f"(?={ahead})") if between is not None else None,
        re.compile(end_pattern(one[1])),
    )
    return _reader(probes, form, _name_start, ahead, several=between is not None)


def _around_arguments(piece: str) -> tuple[str, str] | None:
    """What stands before and behind the arguments, which are JSON."""
    for bracket in re.finditer(r"\{", piece):
        try:
            value, end = JSON.raw_decode(piece, bracket.start())
        except ValueError:
            continue
        if value == ARGUMENTS:
            return piece[: bracket.start()], piece[end:]
    return None


def _name_start(text: str) -> int | None:
    at = text.find(NAMES[0])
    return at if at >= 0 else None


# ---------------------------------------------------------------- a name, and each argument by itself


@dataclass(frozen=True, slots=True)
class _Around:
    """What stands around the value of an argument: behind its key, and before the next key, name or end."""

    middle: str
    next_key: str
    next_call: str | None
    end: str


def _keyed_calls(probes: Probes) -> CallReader | None:
    pieces = probes.after_names(ARGUMENTS)
    if pieces is None or KEY not in pieces[0]:
        return None
    first_key = agreed(*(piece.partition(KEY)[0] for piece in [*pieces, *probes.several(ARGUMENTS)]))
    numbers = _around(probes, 70417, "70417")
    is_dict = (first_key or "").endswith(("{'", '{"'))  # Python prints it; the template wants JSON as a text
    if first_key is None or is_dict or numbers is None:
        return None
    kinds = _value_kinds(probes, numbers)
    if kinds is None:
        return None
    named, ahead = _named_pattern(probes, first_key, [around for around, *_ in kinds])
    forms = tuple(_value_form(*kind, ahead, kinds) for kind in kinds)
    return _reader(probes, KeyedCalls(named, forms), _name_start, ahead, several=probes.count > 1)


_Kind = tuple[_Around, bool, bool, Literals]  # around; is_text, only_text, literals as in ValueForm


def _value_kinds(probes: Probes, numbers: _Around) -> list[_Kind] | None:
    """Every way in which values stand behind their keys; None where a text cannot be found again."""
    shown = {kind: _around(probes, value, form) for kind, (value, form) in _PROBED.items()}
    python = any(_shows_python(probes, value) for value in ({"qzinq": "x"}, True, None))
    texts = [_around(probes, text, re.escape(text)) for text in (VALUE, *_ODD_TEXTS)]
    plain, bare = texts[0], all(texts)
    literals = Literals(python, _own_quotes(plain, numbers) if bare and plain else None)
    kinds: dict[_Around, _Kind] = {}
    for around in texts if bare else ():
        if around is not None:
            kinds[around] = (around, True, around.middle != numbers.middle, literals)
    for around in shown.values():
        if around is not None and around not in kinds:
            kinds[around] = (around, False, False, literals)
    return list(kinds.values())


def _around(probes: Probes, value: Any, form: str) -> _Around | None:
    """Where a value that looks like `form` (a pattern) stands."""
    alone = _behind_key(probes.after_names({KEY: value}), form)
    followed = _behind_key(probes.after_names({KEY: value, MORE: VALUE}), form)
    if alone is None or followed is None or MORE not in followed[1]:
        return None
    calls = probes.after_names({KEY: value}, *[ARGUMENTS] * (probes.count - 1)) if probes.count > 1 else None
    before_next = _behind_key(calls, form)
    next_call = before_next[1] if before_next else None
    return _Around(alone[0], followed[1].partition(MORE)[0], next_call, alone[1])


def _behind_key(pieces: Sequence[str] | None, form: str) -> tuple[str, str] | None:
    """What stands between the key and its value in the first piece, and behind the value."""
    piece = pieces[0] if pieces else ""
    _, found, rest = piece.partition(KEY)
    until = rest.find(MORE) if MORE in rest else len(rest)
    values = list(re.finditer(form, rest[:until])) if found else []
    return (rest[: values[-1].start()], rest[values[-1].end() :]) if values else None


def _shows_python(probes: Probes, value: Any) -> bool:
    text = probes.calls({KEY: value}) or ""
    return any(shown in text for shown in ("True", "None", "'qzinq'"))


def _own_quotes(text: _Around | None, number: _Around) -> tuple[str, str] | None:
    """The marks that stand around texts and not around numbers, where they are a family's own."""
    if text is None or not text.middle.startswith(number.middle) or not text.end.endswith(number.end):
        return None
    opening = text.middle.removeprefix(number.middle)
    closing = text.end.removesuffix(number.end)
    return (opening, closing) if opening.strip() and closing.strip() and opening not in "\"'" else None


def _named_pattern(probes: Probes, first_key: str, around: Sequence[_Around]) -> tuple[re.Pattern[str], str]:
    """`KeyedCalls.named`, and the same as something to look ahead for, without its groups."""
    key = "|".join(_key_pattern(one, groups=False) for one in around)
    several = probes.several({})
    end = agreed(*(probes.after_names({}) or []), *several[-1:])
    ends = [] if end is None else [("end", end_pattern(end))]
    if (between := agreed(*several[:-1])) is not None:
        ends.append(("next_call", pattern(between, groups=False) + f"(?={ANY_NAME})"))
    named = [*ends, ("keys", pattern(first_key) + f"(?={key})")]
    ahead = [*(what for _, what in ends), pattern(first_key, groups=False) + f"(?={key})"]
    groups = "|".join(f"(?P<{group}>{what})" for group, what in named)
    return re.compile(f"(?P<name>{ANY_NAME})(?:{groups})"), f"{ANY_NAME}(?:{'|'.join(ahead)})"


def _key_pattern(around: _Around, *, groups: bool = True) -> str:
    is_sign = around.middle.strip()[:1] in ("=", ":")
    key = WORD_KEY if is_sign else ANY_KEY
    return (f"(?P<key>{key})" if groups else key) + pattern(around.middle, text_after=True, groups=False)


def _value_form(
    around: _Around, is_text: bool, only_text: bool, literals: Literals, ahead: str, kinds: Sequence[_Kind]
) -> ValueForm:
    key = "|".join(_key_pattern(kind[0], groups=False) for kind in kinds)
    next_key = pattern(around.next_key, text_before=is_text, groups=False)
    closes = [f"(?P<next_key>{next_key}(?={key}))", f"(?P<end>{end_pattern(around.end, text_before=is_text)})"]
    if around.next_call is not None:
        next_call = pattern(around.next_call, text_before=is_text)
        closes.append(f"(?P<next_call>{next_call}(?={ahead}))")
    return ValueForm(
        re.compile(_key_pattern(around)), re.compile("|".join(closes)), is_text, only_text, literals
    )
