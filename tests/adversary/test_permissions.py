"""A permission is given by the command of now: what a stored file says of it does not count."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config.load import load_config, recorded_config
from finetune.config.permissions import Permissions
from finetune.errors import ConfigError
from finetune.eval.command import _settings
from finetune.train.run import described_config

RECORDED: list[tuple[dict[str, Any], str]] = [
    ({"model_config": {"trust_remote_code": True}}, "--trust-remote-code"),
    ({"data_config": {"allow_remote_images": True}}, "--allow-remote-images"),
    ({"data_config": {"image_roots": ["/"]}}, "--image-root"),
]
GIVEN = {
    "--trust-remote-code": Permissions(trust_remote_code=True),
    "--allow-remote-images": Permissions(allow_remote_images=True),
    "--image-root": Permissions(image_roots=["/pictures, and 'more'"]),
}


def granted(config: Any) -> tuple[bool, bool, tuple[str, ...]]:
    data = config.data_config
    return config.model.trust_remote_code, data.allow_remote_images, tuple(data.image_roots)


def run_with(folder: Path, sections: dict[str, Any]) -> Path:
    config = {"data_config": {"train_file": "a.jsonl"} | sections.get("data_config", {})}
    config |= {key: value for key, value in sections.items() if key != "data_config"}
    (folder / "run.json").write_text(json.dumps({"config": config}))
    return folder


@pytest.mark.parametrize(("sections", "option"), RECORDED, ids=[option for _, option in RECORDED])
def test_a_rerun_takes_no_permission_from_the_record_and_names_the_option(
    sections: dict[str, Any], option: str, tmp_path: Path
) -> None:
    config, lines = described_config(run_with(tmp_path, sections), tmp_path / "new")
    assert granted(config) == (False, False, ())
    assert len(lines) == 1 and option in lines[0] and "run.json" in lines[0]


@pytest.mark.parametrize(("sections", "option"), RECORDED, ids=[option for _, option in RECORDED])
def test_an_evaluation_of_a_run_takes_none_either(
    sections: dict[str, Any], option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_with(tmp_path, sections)
    assert granted(_settings(run, "b.jsonl", None, Permissions())) == (False, False, ())
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("option", GIVEN)
def test_what_the_command_says_counts_whatever_the_record_says(option: str, tmp_path: Path) -> None:
    given = GIVEN[option]
    config, _ = described_config(run_with(tmp_path, {}), tmp_path / "new", given)
    wanted = (given.trust_remote_code, given.allow_remote_images, tuple(given.image_roots))
    assert granted(config) == wanted
    assert option in given.options()


def test_a_yaml_that_is_named_now_may_say_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data_config: {train_file: a, allow_remote_images: true}\n")
    assert load_config(tmp_path / "c.yaml").data_config.allow_remote_images


@pytest.mark.parametrize("damage", [{"model_config": "all"}, {"model_config": {"trust_remote_code": 1}}])
def test_a_record_that_is_damaged_there_permits_nothing(damage: dict[str, Any]) -> None:
    try:
        config, _ = recorded_config({"data_config": {"train_file": "a"}} | damage, "run.json", Permissions())
    except ConfigError:
        return
    assert granted(config) == (False, False, ())
