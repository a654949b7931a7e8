"""Real chat templates on real tokenizers, against transformers' own rendering: never silently wrong."""

import pytest

from tests.chat.real import table
from tests.chat.real.families import PAIRS, Pair
from tests.chat.real.fetch import template_file
from tests.chat.real.judge import WRONG, judge

pytestmark = pytest.mark.real


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_no_real_template_is_trained_otherwise_than_its_model_writes(pair: Pair) -> None:
    if not template_file(pair).is_file():
        pytest.skip("its package could not be fetched")
    verdicts = judge(pair)
    assert [f"{v.talk.column}, {v.talk.name}: {v.why}" for v in verdicts if v.kind == WRONG] == []
    assert table.row(pair.name, verdicts) in table.PAGE.read_text(encoding="utf-8"), "python -m tests.chat.real"
