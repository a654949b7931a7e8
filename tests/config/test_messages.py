"""What a person reads when a configuration is wrong: file, line, column, key, what is wrong, what to do."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune.config.keys import every_key
from finetune.config.mistakes import NEEDED

Mistakes = Callable[..., list[str]]

TABLE = Path(__file__).with_name("refused.txt")


def refused() -> Iterator[tuple[str, list[str]]]:
    """(YAML, what is said of it) from the table."""
    blocks = re.split(r"\n{2,}", TABLE.read_text(encoding="utf-8").strip())
    for block in blocks:
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        text = "\n".join(line for line in lines if not line.startswith("    "))
        if text:
            yield text, [f"c.yaml:{line.strip()}" for line in lines if line.startswith("    ")]


LAUGHS = [("a", "1"), ("b", "*a"), ("c", "*b"), ("d", "*c")]
BILLION = "".join(f"{name}: &{name} [{', '.join([inner] * 50)}]\n" for name, inner in LAUGHS)

WHOLE_FILES: list[tuple[str | bytes, str]] = [
    ("", "1:1: the file is empty; it needs at least data_config with a train_file"),
    ("# nothing\n", "1:1: the file is empty; it needs at least data_config with a train_file"),
    ("- a\n", "1:1: expected a map of keys such as data_config, found a list"),
    ("train\n", "1:1: expected a map of keys such as data_config, found a single value"),
    ("run: {}\n", "1:1: data_config: is missing, and is needed"),
    ("data_config: {}\n", "1:1: data_config.train_file: is missing, and is needed"),
    ("data_config: {trian_file: a}\n", "1:15: data_config.trian_file: unknown key; did you mean train_file?"),
    ("data_config: [a]\n", "1:14: data_config: expected a map, found a list"),
    (
        "data_config: {train_file: []}\n",
        "1:27: data_config.train_file: is empty; remove the key, or fill it in",
    ),
    ("data_config: {train_file: {file: a}}\n", "1:27: data_config.train_file: expected a text, found a map"),
    (
        "data_config: {train_file: [a]}\n",
        '1:28: data_config.train_file[0]: expected a map, found the text "a"; write {file: a}',
    ),
    ("data_config:\n", "1:1: data_config: expected a map, found null; it is needed"),
    (
        "data_config: {train_file: [{flie: a}]}\n",
        "1:29: data_config.train_file[0].flie: unknown key; did you mean file?",
    ),
    (
        "data_config: {train_file: [{file: a, weight: 0}]}\n",
        "1:46: data_config.train_file[0].weight: expected a value above 0, found 0",
    ),
    (
        "data_config:\n  train_file: a\nrun: {}\ndata_config:\n  train_file: b\n",
        "4:1: data_config: given twice, first at c.yaml:1:1; remove one",
    ),
    ("data_config:\n\ttrain_file: a\n", "2:1: a tab; YAML is indented with spaces"),
    ("data_config:\n  train_file: a\n \trun: {}\n", "3:2: a tab; YAML is indented with spaces"),
    ("data_config: {train_file: a\n", "2:1: not YAML: expected ',' or '}', but got '<stream end>'"),
    ("data_config: *data\n", "1:14: not YAML: found undefined alias 'data'"),
    ("data_config: &a {train_file: [*a]}\n", "1:14: data_config.train_file[0]: this alias contains itself"),
    ("data_config: &a {<<: *a, train_file: x}\n", "1:14: data_config: this alias contains itself"),
    (BILLION, "1:152: more than 100000 values; write out fewer aliases"),
    ("a: 1\n---\nb: 2\n", "2:1: not YAML: but found another document"),
    (b"data_config:\n  train_file: \xff\n", "2:15: byte 0xff is not UTF-8; save the file as UTF-8"),
    ("run: {}\n".encode("utf-16"), "1:1: the file is UTF-16; save it as UTF-8"),
    (b"run: \x00\n", "1:6: character U+0000 may not stand in YAML"),
    ("a: " + "[" * 600, "1:1: not YAML: maps and lists are nested too deeply"),
]


@pytest.mark.parametrize(("text", "said"), list(refused()))
def test_what_is_wrong_is_said_at_its_place(mistakes: Mistakes, text: str, said: list[str]) -> None:
    assert mistakes(text) == said


@pytest.mark.parametrize(("text", "message"), WHOLE_FILES)
def test_a_file_that_is_no_configuration_is_refused_with_its_place(
    refusal: Mistakes, text: str | bytes, message: str
) -> None:
    assert refusal(text) == [f"c.yaml:{message}"]


def test_what_needs_a_value_has_no_default() -> None:
    assert {key.name for key in every_key() if key.default == "needed"} == NEEDED


def test_all_mistakes_are_told_at_once_from_top_to_bottom(mistakes: Mistakes) -> None:
    text = """\
max_input_length: many
combine: 7
training_args:
  max_steps: 1.5
  lerning_rate: 1
  gradient_checkpointing: true
  generation_config:
    temprature: 1
  seed: 1
  seed: 2
peft_config:
  peft_type: PREFIX_TUNING
  num_virtual_tokens: 4
  prefix_projection: 0
lora_rank: 8
"""
    places = [line.split(" ")[0:2] for line in mistakes(text, ["run.limit=3"])]
    assert places == [
        ["c.yaml:2:19:", "max_input_length:"],
        ["c.yaml:3:10:", "combine:"],
        ["c.yaml:5:14:", "training_args.max_steps:"],
        ["c.yaml:6:3:", "training_args.lerning_rate:"],
        ["c.yaml:7:3:", "training_args.gradient_checkpointing:"],
        ["c.yaml:9:5:", "training_args.generation_config.temprature:"],
        ["c.yaml:11:3:", "training_args.seed:"],
        ["c.yaml:15:22:", "peft_config.prefix_projection:"],
        ["c.yaml:16:1:", "lora_rank:"],
        ["--set", "run.limit=3:"],
    ]
