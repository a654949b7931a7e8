"""The pictures of a message: parts of its content, a path beside it, or the record's own list.

Four ways to write one down, and all leave as an `Image` that knows where in the text it stands:
    GLM-4         {"role": "user", "content": "…", "image": "a.jpg"}             before the text; or a list
    OpenAI        {"content": [{"type": "image_url", "image_url": {"url": …}}, {"type": "text", …}]}
    Hugging Face  {"content": [{"type": "image"}, {"type": "text", …}]}           with the record's `images`
    LLaVA         {"content": "<image>…"}                                         with the record's `images`
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.chat.messages import Image, KeyPath, Message
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind, text_of

IMAGE = "<image>"
"""In a message's text: where one of the record's images stands."""

_KEYS = ("image_url", "image", "url", "path", "bytes")
_PICTURES = frozenset(("image_url", "image_path", "image_file", "img", "picture", "pictures"))
_OTHERS = frozenset(("video", "videos", "audio", "audios"))
_MISNAMED = _PICTURES | _OTHERS
"""Fields of a turn that would bring what nobody reads: without a word it would be trained blind."""


def own_images(turn: Mapping[str, Any], content: str, where: str, at: KeyPath) -> tuple[str, tuple[Image, ...]]:
    """GLM-4's way, paths beside the content: the content, and the images at their marks, or before the text.

    Several are a list, `image` or `images`; each has a mark, or none has. Raises WrongRecordError, also for a
    field that would bring a picture under a name that nobody reads.
    """
    if _MISNAMED.intersection(turn):
        _refuse_misnamed(turn, where, at)
    key = "image" if turn.get("image") else "images"
    given = turn.get(key)
    if not given:
        return content, ()
    if isinstance(given, list):
        images = [_named(one, f"{where}: an image", (*at, key, index)) for index, one in enumerate(given)]
    else:
        images = [_named(given, f"{where}: image", (*at, key))]
    marks = content.count(IMAGE)
    if marks not in (0, len(images)):
        reason = f"{where}: {_counted(len(images), 'image')}, but {_counted(marks, 'place')} marked {IMAGE}"
        raise WrongRecordError("E220", reason, (*at, key))
    filled = _filled(Message("user", content, images=() if marks else tuple(images)), iter(images))
    return filled.content, filled.images


def _refuse_misnamed(turn: Mapping[str, Any], where: str, at: KeyPath) -> None:
    for key in sorted(_MISNAMED.intersection(turn)):
        if turn[key]:
            hint = "write it as image" if key in _PICTURES else "sound and video are not read"
            raise WrongRecordError("E219", f"{where} has {key}; {hint}", (*at, key))


def content_of_parts(parts: Sequence[Any], where: str, path: KeyPath) -> tuple[str, tuple[Image, ...]]:
    """The text of a list of parts, and the pictures between."""
    text = ""
    images: list[Image] = []
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text += text_of(part.get("text"), f"{where}: the text of a content part", (*path, index, "text"))
        elif kind in ("image", "image_url"):
            images.append(replace(_of_part(part, where, (*path, index)), offset=len(text)))
        else:
            reason = f"{where}: a content part of type {kind!r}; expected text or image"
            raise WrongRecordError("E219", reason, (*path, index, "type"))
    return text, tuple(images)


def _of_part(part: Mapping[str, Any], where: str, path: KeyPath) -> Image:
    key = next((key for key in _KEYS if part.get(key)), None)
    return Image(at=path) if key is None else _named(part[key], f"{where}: an image", (*path, key))


def _named(value: Any, what: str, at: KeyPath) -> Image:
    """An image by its path, address or data: URL; by an object that holds one of these, or the bytes."""
    if isinstance(value, dict):
        key = next((key for key in ("bytes", "url", "path") if value.get(key)), "url")
        value, at = value.get(key), (*at, key)
    if isinstance(value, bytes):
        return Image(data=value, at=at)
    return Image(text_of(value, what, at), at=at)


def listed_images(record: Mapping[str, Any]) -> Any:
    """The record's own pictures: `images`, or LLaVA's `image`. Raises WrongRecordError for sound and video."""
    for key in _OTHERS:
        if record.get(key):
            raise WrongRecordError("E219", f"the record has {key}; sound and video are not read", (key,))
    single = record.get("image")
    return record.get("images") or (single if isinstance(single, list) else [single] if single else None)


def with_images(messages: Sequence[Message], images: Any) -> tuple[Message, ...]:
    """Hand the record's own `images` (None: it has none) to their places in the messages, in order."""
    if not images:
        _refuse_blank(messages)
        return tuple(messages)
    given = [images] if isinstance(images, str) and not images.lstrip().startswith("[") else images
    listed = decoded(given, "images", ("images",))
    if not isinstance(listed, list):
        reason = f"images is {json_kind(listed)}; expected an array of paths"
        raise WrongRecordError("E220", reason, ("images",))
    named = [_named(image, "an image", ("images", index)) for index, image in enumerate(listed)]
    places = sum(_places(message) for message in messages)
    if places != len(listed):
        counts = f"{_counted(len(listed), 'image')}, but {_counted(places, 'place')}"
        reason = f"{counts} marked {IMAGE} (or image parts) in the messages"
        raise WrongRecordError("E220", reason, ("images",))
    left = iter(named)
    return tuple(_filled(message, left) if _places(message) else message for message in messages)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _places(message: Message) -> int:
    return message.content.count(IMAGE) + sum(_is_blank(image) for image in message.images)


def _is_blank(image: Image) -> bool:
    """Whether this is the place of an image that the record's own list brings."""
    return image.path is None and image.data is None


def _refuse_blank(messages: Sequence[Message]) -> None:
    for message in messages:
        for image in message.images:
            if _is_blank(image):
                reason = "an image part without an image: give it a path or URL, or the record a list `images`"
                raise WrongRecordError("E220", reason, image.at)


def _filled(message: Message, left: Iterator[Image]) -> Message:
    """The message with the next of the record's images in each of its places."""
    text = ""
    images: list[Image] = []
    for part in message.parts():
        if isinstance(part, Image):
            images.append(replace(next(left) if _is_blank(part) else part, offset=len(text)))
            continue
        before, *behind = part.split(IMAGE)
        text += before
        for piece in behind:
            images.append(replace(next(left), offset=len(text)))
            text += piece
    return replace(message, content=text, images=tuple(images))
