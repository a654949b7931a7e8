"""What a run on pictures leaves behind talks about pictures from wherever it is put."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune.chat.messages import Conversation, Image, Message
from finetune.data.encode import prompt_of
from finetune.infer.engine import Sampling
from finetune.infer.load import load_engine
from finetune.train.run import train
from tests.seeing import draw, make_seeing

LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj", "qkv"]}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}
ANSWERS = 8


def trained(place: Path, peft: dict[str, Any] | None) -> Path:
    """The newest checkpoint of a short run on two pictures."""
    data = place / "data"
    rows = []
    for number, word in enumerate(("cat", "dog")):
        draw(data / f"{word}.png", 84, 56, number)
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": "What?", "image": f"{word}.png"},
                    {"role": "assistant", "content": word},
                ]
            }
        )
    (data / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = {
        "data_config": {"train_file": "train.jsonl"},
        "model_config": {"freeze": []},
        "training_args": {
            "output_dir": str(place / "run"),
            "max_steps": 2,
            "save_steps": 2,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.05,
        },
        **({"peft_config": peft} if peft else {}),
    }
    YAML().dump(config, place / "run.yaml")
    base = make_seeing(place / "base", "qwen3_vl")
    train(data, str(base), place / "run.yaml", None, ())
    return place / "run" / "checkpoint-2"


def said(folder: Path, picture: Path) -> list[int]:
    engine = load_engine(str(folder))
    asked = Conversation((Message("user", "What?", images=(Image(str(picture)),)),))
    [answer] = engine.generate([prompt_of(engine.template, asked)], Sampling(max_new_tokens=ANSWERS))
    return answer.ids


@pytest.mark.parametrize(("kind", "peft"), [("lora", LORA), ("prefix", PREFIX)])
def test_an_adapter_that_was_moved_still_sees(kind: str, peft: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = trained(tmp_path, peft)
    picture = tmp_path / "data" / "cat.png"
    before = said(checkpoint, picture)
    moved = shutil.move(checkpoint, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    assert not (moved / "config.json").exists()
    assert said(moved, picture) == before
    assert load_engine(str(moved)).template.sight == load_engine(str(tmp_path / "base")).template.sight


def test_a_model_that_was_trained_whole_sees_without_its_base(tmp_path: Path) -> None:
    checkpoint = trained(tmp_path, None)
    picture = tmp_path / "data" / "cat.png"
    before = said(checkpoint, picture)
    moved = shutil.move(checkpoint, tmp_path / "elsewhere")
    for gone in ("run", "base"):
        shutil.rmtree(tmp_path / gone)
    assert said(moved, picture) == before
