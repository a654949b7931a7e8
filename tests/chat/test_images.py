"""Images in chat templates: where they stand, that none is lost, and that nobody can type one."""

from dataclasses import replace

import pytest

from finetune.chat.messages import Conversation, Image, Message
from finetune.chat.sight import Sight
from finetune.chat.template import ChatTemplate
from finetune.errors import TemplateError
from tests.chat.conftest import FAMILIES, make_family

SIGHT = Sight(token=0, side=14, merge=2, frames=2, least=1, most=10**7, counts_frames=True)
SEEING = {name: family for name, family in FAMILIES.items() if "<|image|>" in family.special}


def seeing(name: str, source: str | None = None) -> ChatTemplate:
    """A family's template, of a model that sees `<|image|>`."""
    text = make_family(name)
    token = text.tokenizer.convert_tokens_to_ids("<|image|>")
    return ChatTemplate(text.tokenizer, source or text.source, sight=replace(SIGHT, token=token))


def picture(name: str, offset: int = 0) -> Image:
    return Image(f"/{name}.png", offset=offset)


TALK = Conversation(
    (
        Message("user", "What is it?", images=(picture("a", 5),)),
        Message("assistant", "A cat.", reasoning="It has whiskers."),
        Message("user", "And these?", images=(picture("b"), picture("c", 10))),
        Message("assistant", "Two dogs.", reasoning="They bark."),
    )
)


def expected(image: str) -> list[str]:
    return [f"What {image}is it?", f"{image}And these?{image}"]


@pytest.mark.parametrize("name", SEEING)
def test_images_stand_between_the_words_that_they_stood_between(name: str) -> None:
    template = seeing(name)
    assert template.dialect.image_token == "<|image|>"
    text = template.marked(template.render(TALK)[-1])
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    for words in expected(image):
        assert words in text


@pytest.mark.parametrize("name", SEEING)
def test_each_example_has_the_images_that_stand_in_it(name: str) -> None:
    template = seeing(name)
    assert template.sight is not None
    for rendered in template.render(TALK):
        tokens = rendered.input_ids.count(template.sight.token)
        paths = [image.path for image in rendered.images]
        assert tokens == len(paths)
        assert paths == ["/a.png", "/b.png", "/c.png"][: len(paths)]
        assert not any(
            learns and token == template.sight.token
            for token, learns in zip(rendered.input_ids, rendered.loss_mask, strict=True)
        )
    assert [image.path for image in template.rendered_prompt(TALK.before(1)).images] == ["/a.png"]


@pytest.mark.parametrize("name", SEEING)
def test_images_change_nothing_else(name: str) -> None:
    template = seeing(name)
    without = Conversation(tuple(replace(message, images=()) for message in TALK.messages))
    shown, plain = template.render(TALK), template.render(without)
    assert len(shown) == len(plain)
    for one, other in zip(shown, plain, strict=True):
        text = template.marked(one).replace("<|begin_of_image|><|image|><|end_of_image|>", "")
        assert text == template.marked(other)


@pytest.mark.parametrize("name", SEEING)
def test_nobody_can_type_an_image(name: str) -> None:
    template = seeing(name)
    assert template.sight is not None
    typed = Conversation(
        (
            Message("user", "<|image|> or <|begin_of_image|>?", images=(picture("a", 3),)),
            Message("assistant", "I say <|image|>."),
        )
    )
    (rendered,) = template.render(typed)
    assert rendered.input_ids.count(template.sight.token) == 1
    assert template.marked(rendered).count("\\<|image|>") == 1
    assert "<|\\<|" not in template.marked(rendered)


PARTS = "{% for m in messages %}<|{{ m.role }}|>\n{% for p in (m.content if m.content is not string else []) %}"
TEXT = "{{ p.text if p.type == 'text' else '' }}{% endfor %}{{ m.content if m.content is string else '' }}"
END = "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
LAST_ONLY = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% set last = loop.last %}"
    "{% for p in (m.content if m.content is not string else []) %}"
    "{{ p.text if p.type == 'text' else ('<|image|>' if last else '') }}{% endfor %}"
    "{{ m.content if m.content is string else '' }}" + END
)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (PARTS + TEXT + END, "does not print images; the model sees none"),
        (
            PARTS + "{{ '<|image|><|image|>' if p.type == 'image' else p.text }}{% endfor %}"
            "{{ m.content if m.content is string else '' }}" + END,
            "does not print images; the model sees none",
        ),
        (
            "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}" + END,
            "does not print images; the model sees none",
        ),
        (LAST_ONLY, "3 images, and the chat template prints"),
    ],
    ids=["drops images", "prints each twice", "prints the list as it is", "prints those of the last message"],
)
def test_a_template_that_loses_images_is_refused(source: str, reason: str) -> None:
    template = seeing("glm4.6", source)
    with pytest.raises(TemplateError, match=reason):
        template.prompt(Conversation(tuple(replace(message, reasoning=None) for message in TALK.messages[:3])))


@pytest.mark.parametrize("name", SEEING)
def test_a_model_shows_no_images_itself(name: str) -> None:
    showing = Conversation((Message("user", "q"), Message("assistant", "this", images=(picture("a"),))))
    with pytest.raises(TemplateError, match=r"message 2: .* images that the assistant shows"):
        seeing(name).render(showing)


def test_a_text_template_of_a_model_that_sees_still_learns_text() -> None:
    template = seeing("glm4.6", PARTS + TEXT + END)
    assert template.render(Conversation((Message("user", "q"), Message("assistant", "a"))))


def test_another_way_of_seeing_is_another_template() -> None:
    text = make_family("glm4.6")
    found = {
        ChatTemplate(text.tokenizer, text.source, sight=sight).fingerprint
        for sight in (None, replace(SIGHT, token=3), replace(SIGHT, token=3).at_most(9))
    }
    assert len(found) == 3


def test_a_message_knows_its_parts_and_keeps_images_between_them() -> None:
    message = Message("user", "What is it?", images=(picture("a"), picture("b", 5), picture("c", 11)))
    assert [part if isinstance(part, str) else part.path for part in message.parts()] == [
        "/a.png",
        "What ",
        "/b.png",
        "is it?",
        "/c.png",
    ]
    louder = message.with_content(lambda text: text.upper() + "!")
    assert louder.content == "WHAT !IS IT?!"
    assert [image.offset for image in louder.images] == [0, 6, 13]
