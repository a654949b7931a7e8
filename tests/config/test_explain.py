"""`finetune explain` has a page for every key, says what other names are called here, and is instant."""

import subprocess
import sys

import pytest

from finetune.config import other_names, other_tools, peft_keys, transformers_keys
from finetune.config.document import parse_document
from finetune.config.examples import example_lines
from finetune.config.explain import explain, overview
from finetune.config.keys import PLACES, Key, every_key
from finetune.config.names import LEVELS
from finetune.config.section import Section
from finetune.config.tuning import TUNINGS
from finetune.errors import ConfigError

KEYS = every_key()


def test_every_key_of_every_level_is_there() -> None:
    found = {level: {key.name for key in KEYS if key.level == level} for level in LEVELS}
    assert found == {level: set(names) for level, names in LEVELS.items()}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_a_key_has_a_page_with_what_it_may_be_and_what_it_does(key: Key) -> None:
    page = "\n".join(explain(key.path))
    assert page.startswith(key.path)
    assert key.text and key.text in page
    assert key.value.replace("`", "") in page
    assert f"default:   {key.default}\n" in page or not key.default


@pytest.mark.parametrize("key", [key for key in KEYS if key.path not in PLACES], ids=lambda key: key.path)
def test_an_example_stands_at_its_place_and_is_valid(key: Key) -> None:
    draft = parse_document("\n".join(example_lines(key)), "example")
    at = (*key.level.split("."), 0) if key.level == "data_config.train_file" else tuple(key.level.split("."))
    values = draft.get(tuple(filter(lambda part: part != "", at)))
    assert key.name in values
    for kind in key.kinds or ("",):
        (section,) = [one for one in PLACES[key.level] if kind == kind_of(one) and key.name in one.model_fields]
        section.model_validate({**needed(section), **values, **({"peft_type": kind} if kind else {})})


def needed(section: type[Section]) -> dict[str, object]:
    """What a section cannot do without."""
    fillers = {"num_virtual_tokens": 8, "train_file": "a", "file": "a", "data_config": {"train_file": "a"}}
    return {name: filler for name, filler in fillers.items() if name in section.model_fields}


def kind_of(section: type[Section]) -> str:
    return next((kind for kind, one in TUNINGS.items() if one is section), "")


@pytest.mark.parametrize("level", [level for level in PLACES if level])
def test_a_section_lists_its_keys(level: str) -> None:
    listed = {line.split()[0] for line in explain(level) if line.startswith("    ")}
    assert LEVELS[level] <= listed


@pytest.mark.parametrize("kind", [*TUNINGS, "lora", "ia3"])
def test_a_peft_type_lists_its_keys(kind: str) -> None:
    listed = {line.split()[0] for line in explain(kind)[3:]}
    assert listed == set(TUNINGS[kind.upper()].model_fields)


def test_without_a_key_every_key_has_a_line() -> None:
    listed = [line.split()[0] for line in overview() if line.startswith("    ")]
    assert sorted(listed) == sorted(key.name for key in KEYS)


@pytest.mark.parametrize(
    ("name", "first", "page"),
    [
        ("lora_rank", "lora_rank: here it is peft_config.r", "peft_config.r"),
        ("peft_config.lora_rank", "lora_rank: here it is peft_config.r", "peft_config.r"),
        ("loraRank", "lora_rank: here it is peft_config.r", "peft_config.r"),
        ("lora-rank", "lora_rank: here it is peft_config.r", "peft_config.r"),
        ("cutoff_len", "cutoff_len: here it is max_input_length and max_output_length", "max_input_length"),
        (
            "evaluation_strategy",
            "evaluation_strategy: here it is training_args.eval_strategy",
            "training_args.eval_strategy",
        ),
        ("freezeV", "freezeV: here it is model_config.freeze", "model_config.freeze"),
        ("torch_dtype", "torch_dtype: here it is model_config.dtype", "model_config.dtype"),
        ("mixed_precision", "mixed_precision: here it is training_args.bf16", "training_args.bf16"),
        ("warmup_ratio", "warmup_ratio: here it is training_args.warmup_steps", "training_args.warmup_steps"),
    ],
)
def test_another_name_leads_to_the_key_it_is_here(name: str, first: str, page: str) -> None:
    lines = explain(name)
    assert lines[0].startswith(first)
    assert page in lines


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stage", "stage: finetune does supervised fine-tuning, nothing else"),
        ("push_to_hub", "at false, its default, it is accepted; upload the run folder when training has ended"),
        ("dataloader_num_workers", "accepted in training_args without effect: examples are encoded once"),
        ("fp16_opt_level", "no key of transformers any more; it went with apex"),
        ("min_length", "a key of training_args.generation_config that finetune does not honour; at null"),
        ("inference_mode", "a key of peft_config that finetune does not honour; at false"),
    ],
)
def test_a_name_without_a_counterpart_is_told_why(name: str, said: str) -> None:
    (line,) = explain(name)
    assert said in line


KNOWN_ELSEWHERE = [
    *other_names.OLD[""],
    *other_names.OLD["training_args"],
    *other_names.REMOVED,
    *other_tools.ELSEWHERE,
    *other_tools.ABSENT,
    *transformers_keys.NO_EFFECT,
    *transformers_keys.NOT_HONOURED,
    *transformers_keys.GENERATION_KEYS,
    *(key for known in peft_keys.NOT_HONOURED.values() for key in known),
]


def test_no_name_that_a_message_knows_is_unknown_here() -> None:
    assert [name for name in KNOWN_ELSEWHERE if not explain(name)] == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lerning_rate", "did you mean training_args.learning_rate?"),
        ("peft_config.lora_alhpa", "did you mean peft_config.lora_alpha?"),
        ("lora_rnk", "did you mean lora_rank?"),
        ("xyzzy", "finetune explain lists them"),
        ("", "finetune explain lists them"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        explain(name)
    assert str(refused.value) == f"{name}: no key of the YAML; {hint}"


INSTANT = """
import sys
from finetune.cli import app
app(["explain", "lora_rank"], standalone_mode=False)
print([name for name in ("torch", "transformers", "numpy", "ruamel") if name in sys.modules], file=sys.stderr)
"""


def test_the_answer_loads_nothing_heavy() -> None:
    run = subprocess.run([sys.executable, "-c", INSTANT], capture_output=True, text=True, check=True)
    assert run.stderr == "[]\n"
