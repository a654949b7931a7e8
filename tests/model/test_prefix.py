"""A prefix that starts as a text is that text: the logits behind both agree, in every family and layout."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from finetune.config.tuning import PrefixTuning
from finetune.data.encode import Example
from finetune.errors import ConfigError
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss
from finetune.model.layout import use_layout
from finetune.model.prefix import keys_and_values, projection_weights
from finetune.model.save import save_tuned
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning, load_adapter
from tests.families import tiny

TEXT = [1, 17, 4, 81, 33, 9]
"""What the prefix starts as; the conversations stand behind it."""
CONVERSATIONS = ([1, 5, 60, 7, 22, 11], [1, 90, 3, 3, 41])
FAMILIES = ("glm", "glm4", "llama", "qwen2", "qwen3", "mistral", "gemma2")
CPU = torch.device("cpu")


def model(family: str) -> PreTrainedModel:
    """With weights so large that it matters to the logits what stands where."""
    return tiny(family, initializer_range=0.3)


def started(family: str) -> Tuned:
    """A tiny model of `family` with a prefix that starts as TEXT."""
    tuned = apply_tuning(model(family), PrefixTuning(peft_type="PREFIX_TUNING", num_virtual_tokens=len(TEXT)))
    wanted = keys_and_values(tuned.base, TEXT, CPU)
    dict(tuned.trainable())["prompt_encoder.default.embedding.weight"].data.copy_(wanted)
    return tuned


def logits(tuned: Tuned, texts: Sequence[Sequence[int]], *, flat: bool) -> Tensor:
    """Of all tokens of the texts, end to end."""
    examples = [Example(np.array(text, dtype=np.int32), np.zeros(len(text), dtype=np.bool_)) for text in texts]
    batch = collate(examples)
    return SupervisedLoss(tuned, flat=flat).eval().logits(batch, torch.arange(batch.input_ids.shape[1]))


def behind_the_text(family: str) -> list[Tensor]:
    """The logits of the bare model behind TEXT: what a prefix of its keys and values must give."""
    bare = Tuned(model(family), "full", torch.float32)
    return [logits(bare, [[*TEXT, *text]], flat=False)[len(TEXT) :] for text in CONVERSATIONS]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_prefix_of_a_text_is_the_text(family: str) -> None:
    expected, tuned = behind_the_text(family), started(family)
    for text, right in zip(CONVERSATIONS, expected, strict=True):
        assert torch.allclose(logits(tuned, [text], flat=False), right, atol=1e-5)
    if family != "gemma2":  # its scores are capped, which flat attention does not do
        use_layout(tuned, "flat")
        assert torch.allclose(logits(tuned, CONVERSATIONS, flat=True), torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize("family", ["glm", "llama", "qwen2"])
@torch.no_grad()
def test_plain_peft_reads_it_as_the_text_too(family: str, tmp_path: Path) -> None:
    save_tuned(started(family), tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert not [key for key in settings if key.startswith("prefix_init")]
    stock = PeftModel.from_pretrained(model(family), str(tmp_path))
    for text, right in zip(CONVERSATIONS, behind_the_text(family), strict=True):
        ids = torch.tensor([text])
        assert torch.allclose(
            stock(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0], right, atol=1e-5
        )
        assert torch.allclose(
            logits(load_adapter(model(family), tmp_path), [text], flat=False), right, atol=1e-5
        )
        given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 1, "do_sample": False}
        assert stock.generate(input_ids=ids, **given)[0, -1] == right[-1].argmax()


@torch.no_grad()
def test_at_other_positions_it_would_be_another_text() -> None:
    """The comparison above can fail: the same keys, rotated for positions behind the conversation's first."""
    tuned = started("llama")
    object.__setattr__(tuned, "virtual_tokens", 0)
    moved = logits(tuned, [CONVERSATIONS[0]], flat=False)
    assert not torch.allclose(moved, behind_the_text("llama")[0], atol=1e-2)


@torch.no_grad()
def test_a_projection_gives_the_same_where_it_is_wide_enough() -> None:
    section = PrefixTuning(
        peft_type="PREFIX_TUNING", num_virtual_tokens=len(TEXT), prefix_projection=True, encoder_hidden_size=12
    )
    tuned = apply_tuning(model("llama"), section)
    encoder = {name.removeprefix("prompt_encoder.default."): p for name, p in tuned.trainable()}
    before = [encoder[name] for name in ("embedding.weight", "transform.0.weight", "transform.0.bias")]
    wanted = keys_and_values(tuned.base, TEXT, CPU)
    weight, bias = projection_weights(*before, wanted)
    encoder["transform.2.weight"].copy_(weight)
    encoder["transform.2.bias"].copy_(bias)
    assert torch.allclose(logits(tuned, CONVERSATIONS[:1], flat=False), behind_the_text("llama")[0], atol=1e-4)
    with pytest.raises(ConfigError, match=r"a projection 3 wide cannot give 6 tokens.*encoder_hidden_size: 6"):
        projection_weights(before[0], before[1][:3], before[2][:3], wanted)
