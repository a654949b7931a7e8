"""A configuration on its way in: plain values, where each was written, and what there is to say about them."""

from dataclasses import dataclass, field
from typing import Any

KeyPath = tuple[str | int, ...]
"""Keys from the top down; whole numbers are places in lists."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written: a file with line and column (from 1), or an override on the command line."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    @property
    def origin(self) -> str:
        """The form kept with a run: "lora.yaml:12", or "--set"."""
        return f"{self.source}:{self.line}" if self.line else self.source.split(" ", 1)[0]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong. `key` is dotted, or empty for the file as a whole."""

    place: Place
    key: str
    what: str

    def __str__(self) -> str:
        key = "" if self.key and self.place.source.startswith(f"--set {self.key}=") else self.key
        return ": ".join(part for part in (str(self.place), key, self.what) if part)


@dataclass
class Draft:
    """The values of a configuration, mistakes, notices, and warnings of what can be meant, but hardly is.

    `keys` and `places` hold, per path, where the key and where its value stand.
    """

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """The value at `path`; `default` where there is none."""
        node: Any = self.values
        for key in path:
            if not _holds(node, key):
                return default
            node = node[key]
        return node

    def has(self, path: KeyPath) -> bool:
        """Whether something stands at `path`, be it null."""
        return self.get(path, _ABSENT) is not _ABSENT

    def drop(self, path: KeyPath) -> None:
        """Take `path` and all below it out of the values; its place stays known."""
        del self.get(path[:-1])[path[-1]]

    def put(self, path: KeyPath, value: Any, place: Place) -> None:
        """Set the value at `path`, making the maps that lead there."""
        node: Any = self.values
        for depth, key in enumerate(path[:-1], start=1):
            if node.get(key) is None:
                node[key] = {}
                self.keys[path[:depth]] = place
            node = node[key]
        node[path[-1]] = value
        self._forget_below(path)
        self.keys[path] = self.places[path] = place

    def _forget_below(self, path: KeyPath) -> None:
        for places in (self.keys, self.places):
            for known in [known for known in places if known[: len(path)] == path]:
                del places[known]

    def key_place(self, path: KeyPath) -> Place:
        """Where the key at `path`, or the nearest one above it, was written."""
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys[path] if path else self.places.get((), Place(self.source, 1, 1))

    def value_place(self, path: KeyPath) -> Place:
        """Where the value at `path`, or the nearest key above it, was written."""
        return self.places[path] if path in self.places else self.key_place(path)

    def warn(self, path: KeyPath, what: str) -> None:
        """Note what is odd about the value at `path`."""
        self.warnings.append(Mistake(self.value_place(path), dotted(path), what))

    def refuse(self, path: KeyPath, what: str, *, value: bool = False) -> None:
        """Note a mistake at the key `path`, or at its value."""
        place = self.value_place(path) if value else self.key_place(path)
        self.mistakes.append(Mistake(place, dotted(path), what))


_ABSENT = object()


def _holds(node: Any, key: str | int) -> bool:
    match node:
        case dict():
            return key in node
        case list():
            return isinstance(key, int) and key < len(node)
        case _:
            return False


def dotted(path: KeyPath) -> str:
    """`training_args.learning_rate`; a place in a list counts from 0, as in `train_file[1].weight`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")
