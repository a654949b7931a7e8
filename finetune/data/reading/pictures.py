"""The images of a conversation: allowed, opened, and measured by a model's way of seeing."""

from dataclasses import replace
from pathlib import Path

from finetune.chat.messages import Conversation, Image, Message
from finetune.chat.sight import Sight
from finetune.data.images.access import Access, settled
from finetune.data.images.look import look
from finetune.data.images.picture import Picture
from finetune.data.images.wrong import WrongImageError
from finetune.data.reading.fields import WrongRecordError


def with_settled_images(conversation: Conversation, beside: Path, access: Access) -> Conversation:
    """The conversation with absolute paths to its images. Raises WrongRecordError for one out of bounds."""

    def message(one: Message) -> Message:
        return replace(one, images=tuple(_settled(image, beside, access) for image in one.images))

    messages = tuple(message(one) if one.images else one for one in conversation.messages)
    return replace(conversation, messages=messages)


def _settled(image: Image, beside: Path, access: Access) -> Image:
    try:
        return settled(image, beside, access)
    except WrongImageError as wrong:
        raise WrongRecordError(wrong.code, wrong.reason, image.at) from None


def look_at_all(conversation: Conversation) -> None:
    """Open every image. Raises WrongRecordError for the first that cannot be used."""
    for image in conversation.images:
        _looked_at(image)


def picture_of(image: Image, sight: Sight) -> Picture:
    """What is known of an image that the model can see. Raises WrongRecordError."""
    picture = _looked_at(image)
    try:
        sight.patches(picture.width, picture.height)
    except ValueError as error:
        raise WrongRecordError(
            "E318", f"{picture.path}: {error}; the model takes none like it", image.at
        ) from None
    return picture


def _looked_at(image: Image) -> Picture:
    try:
        return look(image)
    except WrongImageError as wrong:
        raise WrongRecordError(wrong.code, wrong.reason, image.at) from None
