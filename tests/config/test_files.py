"""Files that a configuration names are found, or missed, before anything is loaded."""

from pathlib import Path

import pytest

from finetune.config.load import load_config
from finetune.errors import ConfigError

YAML = "data_config: {train_file: train.jsonl}\ntraining_args: {deepspeed: configs/ds.json}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def deepspeed_of(yaml: Path) -> Path:
    return Path(str(load_config(yaml).training_args.placement.deepspeed))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("yaml", "json"),
    [
        ("there/c.yaml", "here/configs/ds.json"),
        ("there/c.yaml", "there/configs/ds.json"),
        ("demo/configs/c.yaml", "demo/configs/ds.json"),
    ],
    ids=["from the working folder", "beside the YAML", "in its parent"],
)
def test_a_deepspeed_file_is_looked_for(here: Path, yaml: str, json: str) -> None:
    root = here.parent
    found = write(root / json, "{}")
    assert deepspeed_of(write(root / yaml, YAML)).resolve() == found.resolve()


def test_a_deepspeed_file_is_taken_from_those_shipped_by_its_name(here: Path) -> None:
    assert deepspeed_of(write(here / "c.yaml", YAML.replace("ds.json", "ds_zero_3.json"))).is_file()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", r"ds\.json:1:2: not JSON: Expecting property name"),
        ("{'stage': 2}", r"ds\.json:1:2: not JSON: Expecting property name"),
        ("[]", r"ds\.json:1:1: expected a map of keys, found a list"),
        ("[" * 100_000, r"ds\.json:1:1: not JSON: maps and lists are nested too deeply"),
    ],
)
def test_a_deepspeed_file_is_read_at_once(here: Path, content: str, what: str) -> None:
    write(here / "configs/ds.json", content)
    with pytest.raises(ConfigError, match=what):
        load_config(write(here / "c.yaml", YAML))


DATA = "data_config: {{train_file: {name}}}\n"


@pytest.mark.parametrize("name", ["train.jsonl", "sub", "owner/corpus"])
def test_data_that_is_there_or_on_the_hub_is_accepted(here: Path, name: str) -> None:
    write(here / "data/train.jsonl", "")
    (here / "data/sub").mkdir()
    load_config(write(here / "c.yaml", DATA.format(name=name)), data_dir=here / "data")


def test_data_given_by_a_path_of_its_own_is_accepted(here: Path) -> None:
    write(here / "mine.jsonl", "")
    load_config(write(here / "c.yaml", DATA.format(name="mine.jsonl")), data_dir=here / "data")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian.jsonl", "did you mean train.jsonl?"),
        ("sub/xyz.jsonl", "it holds train.jsonl"),
        ("q", "it holds"),
    ],
)
def test_data_that_is_not_there_is_missed_at_its_line(here: Path, name: str, hint: str) -> None:
    write(here / "data/train.jsonl", "")
    with pytest.raises(
        ConfigError, match=rf"c\.yaml:1:27: data_config\.train_file: no file {name} in .*{hint}"
    ):
        load_config(write(here / "c.yaml", DATA.format(name=name)), data_dir=here / "data")


def test_every_file_of_a_list_is_looked_for(here: Path) -> None:
    text = "data_config:\n  train_file:\n    - file: a.jsonl\n    - file: b.jsonl\n  val_file: c.jsonl\n"
    with pytest.raises(ConfigError) as refused:
        load_config(write(here / "c.yaml", text), data_dir=here)
    keys = [line.split(": ")[1] for line in str(refused.value).splitlines()]
    assert keys == ["data_config.train_file[0].file", "data_config.train_file[1].file", "data_config.val_file"]


def test_a_missing_configuration_names_those_beside_it(here: Path) -> None:
    write(here / "other.yaml", "")
    with pytest.raises(ConfigError, match=r"c\.yaml: no such file; .* holds other\.yaml"):
        load_config(here / "c.yaml")


def test_a_folder_is_no_configuration(here: Path) -> None:
    with pytest.raises(ConfigError, match="this is a folder; CONFIG is a YAML file"):
        load_config(here)
