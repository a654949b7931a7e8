"""`--set training_args.learning_rate=1e-4`: one value of the YAML, given on the command line."""

from finetune.config.document import parse_value
from finetune.config.draft import Draft, KeyPath, Mistake, Place
from finetune.errors import ConfigError


def remote_images(allowed: bool) -> list[str]:
    """`--allow-remote-images` as overrides."""
    return ["data_config.allow_remote_images=true"] if allowed else []


def override(draft: Draft, text: str) -> None:
    """Put the value of a `KEY=VALUE` into the draft; VALUE is YAML. Mistakes are noted there."""
    source = f"--set {text}"
    key, equals, written = text.partition("=")
    path = _path(key)
    if not equals or not all(path):
        _refuse(draft, source, "expected KEY=VALUE, such as training_args.learning_rate=1e-4")
        return
    try:
        value = parse_value(written, source, path, draft)
    except ConfigError as error:
        _refuse(draft, source, str(error).removeprefix(f"{source}: "))
        return
    _put(draft, path, value, source)


def _path(key: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in key.split("."))


def _put(draft: Draft, path: tuple[str, ...], value: object, source: str) -> None:
    inner: KeyPath = ()
    for part in path[:-1]:
        inner = (*inner, part)
        parent = draft.get(inner)
        if parent is not None and not isinstance(parent, dict):
            _refuse(draft, source, f"{'.'.join(map(str, inner))} is no map; set it as a whole")
            return
    draft.put(path, value, Place(source))


def _refuse(draft: Draft, source: str, what: str) -> None:
    draft.mistakes.append(Mistake(Place(source), "", what))
