"""What a chat template may spend on one conversation: steps, characters, and time of the processor.

A template is a stranger's program, and a few lines can run for ever: `{% set x = x ~ x %}` in a loop, a macro
that calls itself twice, a text of a billion spaces. `Bounded` is Jinja's sandbox where all of it has a price:

    a turn of a loop, a call of a macro    one step
    a list that is made                    a step for each of its parts
    a long text that is made               its characters
    what nothing counts (comparisons)      only time

A conversation may cost what its size makes likely; beyond that `ExhaustedError` says what ran out.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from string import Formatter
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 2_000_000
CHARACTERS = 50_000_000
SECONDS = 30.0
"""Of one thread's processor time."""
LONGEST = 100_000_000
"""Characters of a rendering, and of any text on the way."""
LONGEST_SOURCE = 2_000_000
"""Characters of a template. Those of real models have some 30,000."""

_WIDEST = 10_000
"""A width, an indentation, a number of decimals or of columns."""
_MOST_BITS = 10_000
"""Of a product or power of whole numbers."""
_LONGEST_RANGE = 1_000_000
_LOOK = 256
"""Turns between two looks at the clock."""
_SHORT = 4096
"""Characters of a text that costs nothing: turns and the template's own length bound how many there are."""
_CONTAINERS = frozenset({list, tuple, dict})

_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[-+ #0]*(\*|\d{5,}|\d*\.(\*|\d{5,}))")
_WIDE_SPEC = re.compile(r"\d{5,}|\{")
_WIDTH_METHODS = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs", "to_bytes"})
_PAID_METHODS = _WIDTH_METHODS | {"replace", "join", "translate"}
_WIDTH_FILTERS = frozenset({"batch", "center", "indent", "round", "slice", "tojson", "truncate", "wordwrap"})
_PAID_FILTERS = _WIDTH_FILTERS | {"replace", "join", "format", "sum"}
_REMOVED_FILTERS = ("striptags", "urlize")
"""For web pages; they search with patterns that can take very long."""
_TOO_MUCH_TEXT = "makes more text than any that only prints such a conversation"
_TURNS, _JOINED, _MADE = "finetune.turns", "finetune.joined", "finetune.made"
_TEXT, _PRINTED = "finetune.text", "finetune.printed"


class ExhaustedError(jinja2.TemplateError):
    """A template costs more than its conversation makes likely; the message follows "the chat template"."""


class Budget:
    """What is left for one rendering; `more` is asked once, when it is spent, what the conversation adds."""

    def __init__(self, more: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> None:
        self._steps, self._characters, self._more = STEPS, CHARACTERS, more
        self._end = time.thread_time() + SECONDS
        self._until_look = _LOOK

    def turn(self, characters: int) -> None:
        """Pay for a turn of a loop or a call of a macro, and the plain text in it. Raises ExhaustedError."""
        self._steps -= 1
        self._characters -= characters
        self._until_look -= 1
        if self._steps < 0 or self._characters < 0:
            self._extend()
        if self._until_look < 0:
            self._until_look = _LOOK
            if time.thread_time() > self._end:
                raise ExhaustedError(f"computes for more than {SECONDS:g} seconds")

    def spend(self, steps: int) -> None:
        """Raises ExhaustedError where so many are not left."""
        self._steps -= steps
        if self._steps < 0:
            self._extend()

    def make(self, characters: int) -> None:
        """Raises ExhaustedError where so many are not left, or are more than one text may have."""
        self._characters -= characters
        if characters > LONGEST:
            raise ExhaustedError(_TOO_MUCH_TEXT)
        if self._characters < 0:
            self._extend()

    def _extend(self) -> None:
        more, self._more = self._more, lambda: (0, 0)
        steps, characters = more()
        self._steps += steps
        self._characters += characters
        if self._steps < 0:
            raise ExhaustedError("makes more loops and calls than any that only prints such a conversation")
        if self._characters < 0:
            raise ExhaustedError(_TOO_MUCH_TEXT)

    def parts_of(self, value: Any) -> None:
        """Pay for all that a container holds: one part may stand in it many times, and is printed as often."""
        held = value.values() if type(value) is dict else value
        if _CONTAINERS.isdisjoint(map(type, held)):
            self.spend(len(value))
        else:
            self.spend(sum(1 for _ in _parts(value, most=max(0, self._steps) + 1)))


_CURRENT: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def spending(budget: Budget) -> Iterator[None]:
    """Let what is compiled or rendered inside be paid from `budget`."""
    token = _CURRENT.set(budget)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def allowance(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> tuple[int, int]:
    """Steps and characters that a conversation adds.

    Loops over loops of its messages, twenty copies of it, and a text of it all that grows by each message.
    """
    parts = [*messages, *(tools or ())]
    size = sum(len(part) if isinstance(part, str) else 1 for part in _parts(parts))
    return 4 * len(parts) ** 2 + 100 * size, 100_000 * len(parts) + (20 + 4 * len(parts)) * size


def _parts(value: Any, most: int | None = None) -> Iterator[Any]:
    """All that a value holds, at every place where it stands; no more than `most`."""
    open_, seen = [value], 0
    while open_ and (most is None or seen < most):
        one = open_.pop()
        seen += 1
        yield one
        if isinstance(one, dict):
            open_ += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            open_ += one


class Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox in which whatever could go on without end is paid for. Renders inside `spending` only."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.filters = {name: paid(name, function) for name, function in self.filters.items()}
        self.filters |= {_TURNS: _turns, _JOINED: _joined, _MADE: _made, _TEXT: _text, _PRINTED: _printed}
        self.globals["range"] = _range
        del self.globals["lipsum"]  # it writes as much filler as it is asked for

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Meter().visit(super()._parse(source, name, filename))
        return tree.set_environment(self)  # type: ignore[return-value]

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            value = left + right
            return value if type(value) is str and len(value) <= _SHORT else _made(value)
        if isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple):
            _pay_operation(_CURRENT.get(), operator, left, right)
        elif operator != "%" and _bits(operator, left, right) > _MOST_BITS:
            raise ExhaustedError("computes with numbers of more digits than anything has a use for")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  as Jinja's
        name = getattr(__obj, "__name__", None)
        if name in _PAID_METHODS:
            args = _pay_method(_CURRENT.get(), __obj.__self__, __obj.__name__, args, kwargs)
        elif name is None and isinstance(__obj, LoopContext) and args:
            args = (_turns(args[0]), *args[1:])
        value = super().call(__context, __obj, *args, **kwargs)
        return value if type(value) is str and len(value) <= _SHORT else _made(value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` in the sandbox, for formats that name no enormous width."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @wraps(wrapped)
        def checked(*args: Any, **kwargs: Any) -> str:
            parts = list(Formatter().parse(value.__self__))
            _refuse_width(any(_WIDE_SPEC.search(spec or "") for _, _, spec, _ in parts))
            _pay_fields(_CURRENT.get(), len(parts), (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return checked


class _Meter(NodeTransformer):
    """Puts a price on what a template does without operator or call: turns, `~`, literals, printed text."""

    def __init__(self) -> None:
        self._kept = 0

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  as Jinja's
        self.generic_visit(node)
        node.iter = _filter(node.iter, _TURNS, nodes.Const(_text_in(node.body)))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        self._visit_kept(node)
        price = _filter(nodes.Const(_text_in(node.body)), _TEXT)
        node.body.insert(0, nodes.ExprStmt(price, lineno=node.lineno))
        return node

    def _visit_kept(self, node: nodes.Node) -> nodes.Node:
        """What is printed in it is not the answer, but a text to go on with."""
        self._kept += 1
        self.generic_visit(node)
        self._kept -= 1
        return node

    visit_CallBlock = visit_FilterBlock = visit_AssignBlock = _visit_kept  # noqa: N815

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        if self._kept:
            plain = nodes.TemplateData | nodes.Const
            node.nodes = [part if isinstance(part, plain) else _filter(part, _PRINTED) for part in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, _MADE) if _has_variables(node) else node

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, _MADE) if node.ctx == "load" and _has_variables(node) else node


def _filter(value: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno or 1)


def _text_in(body: Iterable[nodes.Node]) -> int:
    """Characters of plain text in it: at most so many are printed when it runs once."""
    found = (data for part in body for data in _texts(part))
    return sum(len(data.data) for data in found)


def _texts(node: nodes.Node) -> Iterator[nodes.TemplateData]:
    return iter([node]) if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _has_variables(node: nodes.Node) -> bool:
    return next(node.find_all((nodes.Name, nodes.Call, nodes.Getattr, nodes.Getitem)), None) is not None


# What the meter calls.


def _turns(items: Iterable[Any], text: int = 0) -> Iterator[Any]:
    turn = _CURRENT.get().turn
    for item in items:
        turn(text)
        yield item


def _text(characters: int) -> None:
    _CURRENT.get().turn(characters)


def _joined(parts: Sequence[Any]) -> str:
    texts = [part if type(part) is str else str(part) for part in parts]
    if (length := sum(map(len, texts))) > _SHORT:
        _CURRENT.get().make(length)
    return "".join(texts)


def _made(value: Any) -> Any:
    """Pay for what an operator, a call, a filter or a literal has made. Returns it."""
    kind = type(value)
    if kind is str:
        if len(value) > _SHORT:
            _CURRENT.get().make(len(value))
    elif kind is list or kind is tuple or kind is dict:
        _CURRENT.get().parts_of(value)
    return value


def _printed(value: Any) -> Any:
    if type(value) is str:
        _CURRENT.get().make(len(value))
    return value


def _range(*limits: int) -> range:
    counted = range(*limits)
    if len(counted) > _LONGEST_RANGE:
        raise ExhaustedError(f"counts beyond {_LONGEST_RANGE:,}")
    return counted


# What operators, methods and filters cost before they are allowed to happen.


def _refuse_width(wide: bool) -> None:
    if wide:
        raise ExhaustedError("asks for a text of a width that nothing has a use for")


def _pay_operation(budget: Budget, operator: str, left: Any, right: Any) -> None:
    if operator == "%":
        _pay_percent(budget, str(left), right)
    elif operator == "*":
        sized, times = (left, right) if isinstance(left, str | list | tuple) else (right, left)
        _pay_length(budget, sized, len(sized) * times if isinstance(times, int) else 0)


def _pay_percent(budget: Budget, form: str, values: Any) -> None:
    _refuse_width(_WIDE_PERCENT.search(form) is not None)
    _pay_fields(budget, form.count("%"), [values])


def _pay_fields(budget: Budget, fields: int, values: Sequence[Any]) -> None:
    """For a format that may print each value in each of its fields."""
    parts = (len(part) if isinstance(part, str) else 10 for value in values for part in _parts(value))
    budget.make(fields * sum(parts))


def _pay_length(budget: Budget, sized: Any, length: int) -> None:
    if isinstance(sized, str):
        budget.make(length)
    else:
        budget.spend(max(0, length))


def _bits(operator: str, left: Any, right: Any) -> float:
    if not (isinstance(left, int) and isinstance(right, int)):
        return 0
    return left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()


def _pay_method(
    budget: Budget, owner: str | bytes | int, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """For a method of a text, bytes or number; its arguments, an iterator among them read into a list."""
    if name in _WIDTH_METHODS:
        widths = (value for value in (*args, *kwargs.values()) if isinstance(value, int))
        _refuse_width(any(width > _WIDEST + (0 if isinstance(owner, int) else len(owner)) for width in widths))
    elif isinstance(owner, str) and name == "replace":
        _pay_replace(budget, owner, *args[:2])
    elif isinstance(owner, str) and name == "join" and args:
        return (_paid_parts(budget, owner, args[0]), *args[1:])
    elif isinstance(owner, str) and name == "translate" and args and isinstance(args[0], dict):
        longest = max((len(value) for value in args[0].values() if isinstance(value, str)), default=1)
        budget.make(len(owner) * longest)
    return args


def _pay_replace(budget: Budget, text: str, old: Any = "", new: Any = "") -> None:
    if isinstance(old, str) and isinstance(new, str) and len(new) > len(old):
        budget.make(text.count(old) * (len(new) - len(old)))


def _paid_parts(budget: Budget, separator: str, parts: Iterable[Any]) -> list[Any]:
    found = list(parts)
    budget.make(sum(len(part) if isinstance(part, str) else 1 for part in found) + len(separator) * len(found))
    return found


def paid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it makes, and for what can be foreseen before.

    Where nobody pays, it fails: so the compiler, which tries filters on constants, leaves them alone.
    """
    first = 1 if hasattr(function, "jinja_pass_arg") else 0
    foreseen = name in _PAID_FILTERS

    @wraps(function)
    def priced(*args: Any, **kwargs: Any) -> Any:
        if foreseen:
            before, value, more = args[:first], args[first], args[first + 1 :]
            args = (*before, _pay_filter(_CURRENT.get(), name, value, (*more, *kwargs.values())), *more)
        value = function(*args, **kwargs)
        return value if type(value) is str and len(value) <= _SHORT else _made(value)

    return priced


def _pay_filter(budget: Budget, name: str, value: Any, options: Sequence[Any]) -> Any:
    """The value that the filter is applied to, an iterator read into a list where all of it is needed."""
    if name in _WIDTH_FILTERS:
        _refuse_width(any(isinstance(option, int) and abs(option) > _WIDEST for option in options))
        _refuse_width(any(isinstance(option, str) and len(option) > _WIDEST for option in options))
    elif name == "replace":
        _pay_replace(budget, str(value), *options[:2])
    elif name == "join":
        return _paid_parts(budget, str(options[0]) if options else "", value)
    elif name == "format":
        _pay_percent(budget, str(value), options)
    elif name == "sum":
        return [part for part in value if _is_addable(part)]
    return value


def _is_addable(part: Any) -> bool:
    """Sums of lists copy them again and again."""
    if isinstance(part, list | tuple):
        raise ExhaustedError("adds up lists with `sum`")
    return True
