"""What every family makes of every file of data_examples/, as text that a reviewer can read in a diff.

Trained text stands in ⟦ ⟧, control tokens spelt in content behind a `\\`. Token ids stand nowhere: they depend
on tokenizers trained on the spot. `python -m tests.golden` writes the pages; a test compares.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.chat.messages import Conversation
from finetune.chat.template import ChatTemplate
from finetune.data.reading.formats import PlainText
from finetune.data.reading.intake import Intake
from finetune.errors import FinetuneError
from tests.chat.conftest import FAMILIES

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "data_examples"
SHOWN = sorted(set(FAMILIES) - {"chatml-spm", "chatml-unigram"})
"""The two others are `chatml` on tokenizers that cannot show a newline behind a control token."""


def page(name: str, template: ChatTemplate) -> str:
    """The page of one family: each record of each file under a heading of its own."""
    return "\n".join(_lines(name, template)) + "\n"


def data_files() -> list[Path]:
    return sorted(path for path in EXAMPLES.iterdir() if path.is_file() and path.suffix != ".md")


def _lines(name: str, template: ChatTemplate) -> Iterator[str]:
    yield f"{name}: ends an answer with {template.dialect.answer_end}, a call with {template.dialect.call_end}"
    for path in data_files():
        for record, found in Intake(path, None).conversations():
            yield from ("", f"==== {path.name}:{record.line}")
            yield from _shown(template, found)


def _shown(template: ChatTemplate, found: Conversation | PlainText) -> Iterator[str]:
    if isinstance(found, PlainText):
        yield f"⟦{found.text}{template.tokenizer.eos_token}⟧"
        return
    try:
        yield from "\n----\n".join(template.marked(one) for one in template.render(found)).split("\n")
    except FinetuneError as refusal:
        yield f"refused: {refusal}"
