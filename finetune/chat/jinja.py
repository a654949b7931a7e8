"""A checkpoint's Jinja chat template, rendered with transformers' semantics and nothing else in reach.

Templates come from the Hub and are foreign code: they run in an immutable sandbox, see plain data only, and
may neither count nor print without end.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from finetune.chat.budget import (
    LONGEST,
    LONGEST_SOURCE,
    Bounded,
    Budget,
    ExhaustedError,
    allowance,
    paid,
    spending,
)
from finetune.errors import TemplateError, UnreadVariableError

# What `strftime_now` tells. A moving clock would make two encodings of one record differ; this is the date
# that Llama's own templates fall back to where there is no clock.
CLOCK = datetime(2024, 7, 26)

_DICT_METHODS = frozenset(dir(dict))
_OURS = ("messages", "tools", "documents", "add_generation_prompt")

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


class _GenerationTag(Extension):
    """Accepts `{% generation %}`, which marks assistant text for trainers; we find it by rendering instead."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return CLOCK.strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML and sorts keys; chat templates expect neither."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Sandbox(Bounded):
    """The bounded sandbox, quicker with plain dicts."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What Jinja itself would find, without first asking a dict for a method that it does not have."""
        if type(obj) is not dict or attribute in _DICT_METHODS:
            return super().getattr(obj, attribute)
        return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)


def _environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = paid("tojson", _tojson)
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _compiled(source: str, name: str) -> jinja2.Template:
    """Raises TemplateError, with the line where Jinja knows it."""
    with _reading(source, name):
        return _environment().from_string(source)


@contextmanager
def _reading(source: str, name: str) -> Iterator[None]:
    """While it is parsed or compiled. Raises TemplateError for whatever cannot be."""
    if len(source) > LONGEST_SOURCE:
        raise TemplateError(
            f"{name}: a chat template of {len(source):,} characters; none has more than {LONGEST_SOURCE:,}"
        )
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{name}:{error.lineno}: not a chat template: {error.message}") from None
    except RecursionError:
        raise TemplateError(f"{name}: not a chat template: it is nested too deeply") from None
    except Exception as error:  # foreign code, which Python compiles in the end: its limits are met there
        raise TemplateError(f"{name}: not a chat template: {error}") from None


class JinjaTemplate:
    """A compiled chat template; `name` is the file it came from, for messages."""

    def __init__(self, source: str, *, name: str, variables: Mapping[str, Any]) -> None:
        self.source = source
        self._name = name
        self.variables = dict(variables)
        self._template = _compiled(source, name)

    def variables_read(self) -> list[str]:
        """The template's own variables: those that `model_config.chat_template_kwargs` may set."""
        return _own_variables(self.source, self._name)

    def with_values(self, values: Mapping[str, Any]) -> "JinjaTemplate":
        """The same template with some of its own variables set."""
        source = with_defaults(self.source, values, name=self._name)
        return JinjaTemplate(source, name=self._name, variables=self.variables)

    def render(self, messages: Messages, tools: Tools | None, add_generation_prompt: bool) -> str:
        """The conversation as text. Raises TemplateError with the template's own words where it refuses."""
        given = {
            **self.variables,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with spending(Budget(lambda: allowance(messages, tools))):
                return _joined(self._template.generate(given))
        except ExhaustedError as error:
            told = f"{self._name}: the chat template {error}; name another one as model_config.chat_template"
            raise TemplateError(told) from None
        except RecursionError:
            raise TemplateError(f"{self._name}: the chat template calls itself too deeply") from None
        except Exception as error:  # foreign code: whatever it raises is the template's fault, not ours
            raise TemplateError(f"{self._name}: the chat template refuses the conversation: {error}") from error


def _joined(pieces: Iterator[str]) -> str:
    text = ""
    while some := list(islice(pieces, 100)):
        text += "".join(some)
        if len(text) > LONGEST:
            raise ExhaustedError("prints without end")
    return text


def with_defaults(source: str, values: Mapping[str, Any], *, name: str) -> str:
    """`source` in which the variables that it reads have `values`, unless whoever renders it sets them.

    A line of Jinja at the top, so that the value goes wherever the template goes: into checkpoints, servers,
    other libraries. Raises UnreadVariableError for a name that the template does not read.
    """
    if not values:
        return source
    own = _own_variables(source, name)
    for key in values:
        if key not in own:
            what = f"{name}: the chat template reads no {key!r} from model_config.chat_template_kwargs; "
            raise UnreadVariableError(what + (f"it reads {', '.join(own)}" if own else "it reads none"), key)
    lines = (f"{{% set {key} = {key} if {key} is defined else {_literal(values[key])} %}}" for key in values)
    return "".join(lines) + "\n" + source


def _own_variables(source: str, name: str) -> list[str]:
    """What the template reads beside what every template is given, by name."""
    environment = _environment()
    with _reading(source, name):
        read = meta.find_undeclared_variables(environment.parse(source)) - set(environment.globals)
    return sorted(key for key in read if key not in _OURS and not key.endswith("_token"))


def _literal(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
