"""GLM-4's chat template on a byte-level tokenizer: a token is a byte or a control token."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from finetune.chat.template import ChatTemplate
from finetune.shipped import template_file

CONTROLS = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
GLM4 = template_file("glm4")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROLS)
    begin = [(token, tokenizer.token_to_id(token)) for token in ("[gMASK]", "<sop>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B", special_tokens=begin
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


@pytest.fixture(scope="session")
def glm4() -> ChatTemplate:
    return ChatTemplate(byte_tokenizer(), GLM4.read_text(encoding="utf-8"), name="glm4.jinja")


FORGETFUL = """[gMASK]<sop>
{%- for m in messages -%}
<|{{ m.role }}|>
{%- if m.role == 'assistant' and loop.last and m.reasoning_content -%}
<think>{{ m.reasoning_content }}</think>
{%- endif -%}
{{ m.content }}
{%- if m.role == 'assistant' %}<|endoftext|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.fixture(scope="session")
def forgetful() -> ChatTemplate:
    """A template that prints the thoughts of the last turn only: every trained turn is its own example."""
    return ChatTemplate(byte_tokenizer(), FORGETFUL, name="forgetful.jinja")
