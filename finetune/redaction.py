"""What looks like a password or an access token is never shown or kept: stderr, run.json, report, card, logs.

Two ways: by what a text looks like (`hub_token=…`, `https://user:pass@…`, `hf_…`), and by value, for those that
stood in the command, the configuration or the environment under a name that tells what they are.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

HIDDEN = "(hidden)"
_KINDS = r"secret|passw(?:or)?d|passphrase|(?:api|access|private|secret)[_-]?key|credentials?"
# pad_token and max_new_tokens are no secrets.
_NAME = rf"(?:(?:^|[^\w]|hub_|hf_|auth_|access_|api_|session_|bearer_)token|{_KINDS})"
_SECRET_NAME = re.compile(rf"{_NAME}$", re.I)
_OPTION = re.compile(rf"-[\w.-]*(?:token|{_KINDS})$", re.I)
_VALUE = r"""(?:"[^"]*"|'[^']*'|(?:(?!:\s)[^\s,;&'"])+)"""
_TELLING = r"""(?=[^\s,;]*[\d_./+=-])[^\s,;'"]{6,}"""  # what follows a colon may be prose, which has no digits
_ASSIGNMENT = re.compile(
    rf"""({_NAME}["']?\s*=\s*|--[\w.-]*(?:token|{_KINDS})\s+|{_NAME}["']\s*:\s*){_VALUE}"""
    rf"""|({_NAME}:\s*)(?:"[^"]*"|'[^']*'|{_TELLING})""",
    re.I,
)
_TEXT = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA|AIza)[\w-]{8,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"  # a JSON web token
    r"|(?<=://)[^\s/@?#]+(?=@)"  # of a URL
    r"|(?<=\bBearer )\S+",
    re.I,
)
_QUERY = re.compile(
    r"([?&](?:[\w-]*(?:token|signature|credential|password|secret)|(?:api_?)?key|sig|auth)=)[^\s&#'\"]+",
    re.I,
)
_SHORTEST = 6
"""Characters of a value that is hidden wherever it stands; shorter ones are words and numbers."""

_known: set[str] = set()


def learn(name: str, value: object) -> None:
    """From now on hide `value` wherever it stands, if `name` says that it is a secret."""
    if isinstance(value, str) and len(value) >= _SHORTEST and _SECRET_NAME.search(name):
        _known.add(value)


def learn_command(words: Sequence[str]) -> None:
    """Learn the secrets in the words of a command line, and those in the environment."""
    for before, word in zip(("", *words), words, strict=False):
        name, equals, value = word.partition("=")
        learn(name.lstrip("-") if equals else before.lstrip("-"), value if equals else word)
    for name, value in os.environ.items():
        learn(name, value)


def learn_settings(values: object, name: str = "") -> None:
    """Learn the secrets in a configuration."""
    for key, value in _named(values, name):
        learn(key, value)


def _named(values: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _named(value, str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _named(value, name)
    else:
        yield name, values


def redacted(text: str) -> str:
    """A text without what looks like a password or an access token."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    text = _QUERY.sub(rf"\1{HIDDEN}", _TEXT.sub(HIDDEN, text))
    return _ASSIGNMENT.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", text)


def without_secrets(value: object, name: str = "") -> object:
    """A config, a command or a message without what looks like a password or an access token."""
    if _SECRET_NAME.search(name) and isinstance(value, str) and value:
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return _of_list(value, name)
    return redacted(value) if isinstance(value, str) else value


def _of_list(values: Iterable[object], name: str) -> list[object]:
    """An item behind `--hub-token` is hidden as what it is."""
    shown: list[object] = []
    before: object = ""
    for value in values:
        secret = isinstance(value, str) and isinstance(before, str) and _OPTION.fullmatch(before) is not None
        shown.append(HIDDEN if secret else without_secrets(value, name))
        before = value
    return shown


def record_without_secrets(record: Mapping[str, object]) -> dict[str, object]:
    """As `without_secrets`, for what run.json holds: the data's own text (`preview`) stays as it is."""
    return {key: value if key == "preview" else without_secrets(value, key) for key, value in record.items()}
