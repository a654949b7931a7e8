"""A YAML or JSON file as plain values, each with the place it was written at. The only door for what is read.

The node graph is read, not the constructed objects: it knows every position, and lets all duplicate keys be
told at once.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from finetune.config.draft import Draft, KeyPath, Mistake, Place, dotted
from finetune.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_TOO_DEEP = "maps and lists are nested too deeply"
_MOST_VALUES = 100_000
_MOST = 2**63 - 1
_SCALARS = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str")}


def read_document(path: Path) -> Draft:
    """Read a YAML file. Raises ConfigError when it cannot be read as YAML at all; other mistakes are noted."""
    return parse_document(_text_of(path), str(path))


def parse_document(text: str, source: str) -> Draft:
    """As read_document, for text that came from `source`."""
    draft = Draft(source)
    root = _compose(text, source)
    if root is None:
        raise ConfigError(f"{source}:1:1: the file is empty; it needs at least data_config with a train_file")
    if not isinstance(root, MappingNode):
        kind = "list" if isinstance(root, SequenceNode) else "single value"
        raise ConfigError(f"{_place(root, source)}: expected a map of keys such as data_config, found a {kind}")
    draft.values = _values(root, (), draft)
    return draft


def read_json(path: Path) -> Draft:
    """As read_document, for JSON: what only YAML allows is refused, and so is anything but a map."""
    text, source = _text_of(path), str(path)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{source}:1:1: not JSON: {_TOO_DEEP}") from None
    draft = Draft(source)
    root = _compose(text, source)
    if not isinstance(root, MappingNode):
        kind = "list" if isinstance(root, SequenceNode) else "single value"
        raise ConfigError(f"{source}:1:1: expected a map of keys, found a {kind}")
    draft.values = _values(root, (), draft)
    return draft


def parse_value(text: str, source: str, path: KeyPath, draft: Draft) -> Any:
    """The value that `text` has in YAML; everything in it stands at `source`."""
    root = _compose(text, source)
    aside = Draft(source)
    value = None if root is None else _values(root, path, aside)
    draft.mistakes += [Mistake(Place(source), mistake.key, mistake.what) for mistake in aside.mistakes]
    return value


def _values(root: Node, path: KeyPath, draft: Draft) -> Any:
    try:
        return _Reader(draft).value(root, path)
    except RecursionError:
        raise ConfigError(f"{_place(root, draft.source)}: not YAML: {_TOO_DEEP}") from None


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {_why_unreadable(path, error)}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}:1:1: the file is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        what = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(f"{path}:{line}:{column}: {what}") from None


def _why_unreadable(path: Path, error: OSError) -> str:
    match error:
        case FileNotFoundError():
            there = sorted(file.name for file in path.parent.glob("*.yaml"))
            return f"no such file; {path.parent} holds {', '.join(there)}" if there else "no such file"
        case IsADirectoryError():
            return "this is a folder; CONFIG is a YAML file"
        case _:
            return f"cannot be read: {error.strerror or error}"


def _compose(text: str, source: str) -> Node | None:
    try:
        return YAML(typ="safe", pure=True).compose(text)  # type: ignore[no-any-return]
    except MarkedYAMLError as error:
        raise ConfigError(_syntax(error, text, source)) from None
    except ReaderError as error:
        line, column = (
            text.count("\n", 0, error.position) + 1,
            error.position - text.rfind("\n", 0, error.position),
        )
        where = f"{source}:{line}:{column}"
        raise ConfigError(
            f"{where}: character U+{ord(text[error.position]):04X} may not stand in YAML"
        ) from None
    except (YAMLError, RecursionError, ValueError) as error:
        reason = _TOO_DEEP if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{source}:1:1: not YAML: {reason.splitlines()[0]}") from None


def _syntax(error: MarkedYAMLError, text: str, source: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None or source.startswith("--set"):
        return f"{source}: not YAML: {error.problem or error.context}"
    line = text.split("\n")[min(mark.line, text.count("\n"))]
    tab = re.match(r" *\t", line)
    if tab:
        return f"{source}:{mark.line + 1}:{tab.end()}: a tab; YAML is indented with spaces"
    return f"{source}:{mark.line + 1}:{mark.column + 1}: not YAML: {error.problem or error.context}"


def _place(node: Node, source: str) -> Place:
    if source.startswith("--set"):
        return Place(source)
    return Place(source, node.start_mark.line + 1, node.start_mark.column + 1)


class _Reader:
    """Nodes to values. Aliases give the same values again; one that contains itself is a mistake."""

    def __init__(self, draft: Draft, inside: Sequence[Node] = ()) -> None:
        self.draft = draft
        self.constructor = YAML(typ="safe", pure=True).constructor
        self.open = list(inside)
        self.seen = 0

    def value(self, node: Node, path: KeyPath) -> Any:
        self.seen += 1
        if self.seen > _MOST_VALUES:  # aliases of aliases grow without end
            place = _place(node, self.draft.source)
            raise ConfigError(f"{place}: more than {_MOST_VALUES} values; write out fewer aliases")
        self.draft.places.setdefault(path, _place(node, self.draft.source))
        if any(node is outer for outer in self.open):
            raise ConfigError(f"{_place(node, self.draft.source)}: {dotted(path)}: this alias contains itself")
        self.open.append(node)
        try:
            return self._read(node, path)
        finally:
            self.open.pop()

    def _read(self, node: Node, path: KeyPath) -> Any:
        match node:
            case MappingNode():
                return self._map(node, path)
            case SequenceNode():
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            case ScalarNode():
                return self._scalar(node, path)

    def _map(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in _pairs(node):
            if not isinstance(key_node, ScalarNode):
                self._note(key_node, path, "a key is a word, not a map or list")
                continue
            key = str(key_node.value)
            inner = (*path, key)
            if key in values:
                self._note(key_node, inner, f"given twice, first at {self.draft.keys[inner]}; remove one")
                continue
            self.draft.keys[inner] = _place(key_node, self.draft.source)
            if isinstance(value_node, ScalarNode) and not value_node.value and value_node.style is None:
                self.draft.places[inner] = self.draft.keys[inner]  # of nothing, YAML gives the next line
            values[key] = self.value(value_node, inner)
        return values | {key: value for key, value in self._merged(node, path).items() if key not in values}

    def _merged(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        """What `<<: *name` brings in; the map's own keys win."""
        merged: dict[str, Any] = {}
        for source in _merge_sources(node):
            if isinstance(source, MappingNode):
                merged = self._map_of_merge(source, path) | merged
            else:
                self._note(source, path, "<< merges maps only")
        return merged

    def _map_of_merge(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        brought = Draft(self.draft.source)
        values: dict[str, Any] = _Reader(brought, self.open).value(node, path)
        self.draft.mistakes += [m for m in brought.mistakes if m not in self.draft.mistakes]
        self.draft.keys = brought.keys | self.draft.keys
        self.draft.places = brought.places | self.draft.places
        return values

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        if node.tag == f"{_TAG}timestamp":
            return str(node.value)
        if node.tag not in _SCALARS:
            tag = str(node.tag).replace(_TAG, "!!")
            self.draft.refuse(path, f"the tag {tag} is not understood; remove it", value=True)
            return None
        if (doubtful := _doubtful_number(node)) is not None:
            self.draft.refuse(path, f"{doubtful}, or put it in quotes if it is a text", value=True)
        try:
            value = self.constructor.construct_object(node, deep=True)
            if isinstance(value, int) and abs(value) > _MOST:
                self.draft.refuse(path, f"a whole number has at most {len(str(_MOST)) - 1} digits", value=True)
            return value
        except (YAMLError, ValueError):
            self.draft.refuse(path, f"{node.value[:40]!r} is not what its tag says", value=True)
            return None

    def _note(self, node: Node, path: KeyPath, what: str) -> None:
        self.draft.mistakes.append(Mistake(_place(node, self.draft.source), dotted(path), what))


def _doubtful_number(node: ScalarNode) -> str | None:
    """What to say of a number that YAML 1.1 and YAML 1.2 read differently."""
    text = str(node.value)
    if node.style is not None or node.tag not in (f"{_TAG}int", f"{_TAG}float"):
        return None
    digits = text.lstrip("+-").replace("_", "")
    if re.match(r"0\d", digits):
        return f"{text} is octal in YAML 1.1 and decimal in YAML 1.2; write {digits.lstrip('0') or '0'}"
    if "_" in text or digits.startswith("0b"):
        return f"{text} is a number in YAML 1.1 only; write {int(digits, 0) if digits.isalnum() else digits}"
    return None


def _is_merge(key: Node) -> bool:
    return key.tag == f"{_TAG}merge"


def _pairs(node: MappingNode) -> Iterator[tuple[Node, Node]]:
    return ((key, value) for key, value in node.value if not _is_merge(key))


def _merge_sources(node: MappingNode) -> Iterator[Node]:
    for key, value in node.value:
        if _is_merge(key):
            yield from value.value if isinstance(value, SequenceNode) else [value]
