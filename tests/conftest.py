"""How tests run, and a small model that has learnt a few conversations, for the tests of all that talks."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from finetune.disk import cache_folder
from tests.figures import know_this_machine
from tests.train.conftest import configure, data, small  # noqa: F401  runs are not only for tests/train

# What the real tier fetches stays where the user's own cache is (workers inherit the place).
os.environ.setdefault("FINETUNE_REAL", str(cache_folder() / "real"))
# Nothing that a test encodes may come from, or stay in, the cache of whoever runs the tests.
os.environ.pop("FINETUNE_CACHE", None)
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="finetune-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
know_this_machine(Path(os.environ["XDG_CACHE_HOME"]))

if TYPE_CHECKING:
    from finetune.chat.messages import Conversation

# The same examples in every run, and no deadline: how busy the machine is says nothing about the code.
settings.register_profile("steady", derandomize=True, deadline=None, database=None)
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, the README's: begun last, it would run while the other workers wait."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def taught_conversations() -> "list[Conversation]":
    """What the taught model answers word for word: three plain turns, a tool call, an answer to its result."""
    from finetune.chat.messages import Conversation, Message, Tool, ToolCall

    weather = Tool(
        "get_weather", "Weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}}
    )
    call = ToolCall("get_weather", {"city": "Rome"})
    plain = [
        ("你好", "你好，我在。"),
        ("Where is the river?", "Behind the old mill."),
        ("One and one?", "Two 🍎🍎."),
    ]
    return [
        *(Conversation((Message("user", q), Message("assistant", a))) for q, a in plain),
        Conversation(
            (
                Message("user", "Weather in Rome?"),
                Message("assistant", tool_calls=(call,)),
                Message("tool", '{"sky": "clear"}'),
                Message("assistant", "Clear sky."),
            ),
            (weather,),
        ),
    ]


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny GLM-4 that has learnt `taught_conversations`."""
    import torch
    from transformers import GlmForCausalLM

    from finetune.chat.load import load_template
    from finetune.data.encode import encode
    from finetune.model.attention import FLAT
    from finetune.model.batch import collate
    from finetune.model.head import SupervisedLoss
    from finetune.model.tiny import TEMPLATE, make_tiny
    from finetune.model.tuned import Tuned

    conversations = taught_conversations()
    said = [message.content for conversation in conversations for message in conversation.messages]
    corpus = [*said, *[TEMPLATE.read_text(encoding="utf-8")] * 3]  # short prompts for tools teach faster
    folder = make_tiny(
        tmp_path_factory.mktemp("taught") / "model",
        corpus,
        vocab_size=640,
        num_hidden_layers=2,
        hidden_size=64,
        head_dim=16,
        intermediate_size=128,
    )
    template = load_template(folder)
    batch = collate([e for c in conversations for e in encode(c, template, max_length=1024)[0]])
    model = GlmForCausalLM.from_pretrained(folder, attn_implementation=FLAT)
    objective = SupervisedLoss(Tuned(model, "full", torch.float32), flat=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(300):
        loss = objective(batch) / len(batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.003:
            break
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def known() -> "list[Conversation]":
    """What `taught` has learnt."""
    return taught_conversations()
