"""The pictures of a message: parts of its content, a path beside it, or the record's own list."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.chat.messages import Image, KeyPath, Message
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind, text_of

IMAGE = "<image>"
"""In a message's text: where one of the record's images stands."""


def own_image(turn: Mapping[str, Any], where: str, at: KeyPath) -> tuple[Image, ...]:
    """GLM-4's way: a path beside the content."""
    return (Image(text_of(turn["image"], f"{where}: image", (*at, "image"))),) if turn.get("image") else ()


def content_of_parts(parts: Sequence[Any], where: str, path: KeyPath) -> tuple[str, tuple[Image, ...]]:
    """OpenAI's way: the text of a list of parts, IMAGE where a picture stands, and the pictures."""
    texts: list[str] = []
    images: list[Image] = []
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(
                text_of(part.get("text"), f"{where}: the text of a content part", (*path, index, "text"))
            )
        elif kind in ("image", "image_url"):
            texts.append(IMAGE)
            images.append(_image(part, where, (*path, index)))
        else:
            reason = f"{where}: a content part of type {kind!r}; expected text or image"
            raise WrongRecordError("E219", reason, (*path, index, "type"))
    return "".join(texts), tuple(images)


def _image(part: Mapping[str, Any], where: str, path: KeyPath) -> Image:
    key = next((key for key in ("image_url", "image", "path", "url") if part.get(key)), "image_url")
    place = part.get(key)
    address = text_of(
        place.get("url") if isinstance(place, dict) else place, f"{where}: an image", (*path, key)
    )
    if not address.startswith("data:"):
        return Image(address)
    try:
        return Image(data=base64.b64decode(address.partition(",")[2], validate=True))
    except binascii.Error:
        raise WrongRecordError("E219", f"{where}: the image's data: URL is not base64", (*path, key)) from None


def with_images(messages: Sequence[Message], images: Any) -> tuple[Message, ...]:
    """Hand the record's top-level `images` to the messages whose text has their places, in order."""
    listed = decoded(images, "images", ("images",))
    if not isinstance(listed, list):
        reason = f"images is {json_kind(listed)}; expected an array of paths"
        raise WrongRecordError("E220", reason, ("images",))
    places = sum(message.content.count(IMAGE) for message in messages)
    if places != len(listed):
        reason = f"{len(listed)} images, but {places} places marked {IMAGE} in the messages"
        raise WrongRecordError("E220", reason, ("images",))
    paths = [Image(text_of(image, "an image", ("images", index))) for index, image in enumerate(listed)]
    return tuple(_take_images(message, paths) for message in messages)


def _take_images(message: Message, paths: list[Image]) -> Message:
    count = message.content.count(IMAGE)
    taken, paths[:] = tuple(paths[:count]), paths[count:]
    return replace(message, images=message.images + taken)
