"""What a YAML's generation_config means."""

from dataclasses import fields

import pytest

from finetune.config.generation import GenerationConfig
from finetune.errors import ConfigError
from finetune.infer.engine import Sampling


def test_every_key_of_the_yaml_arrives_under_its_name_with_the_same_default() -> None:
    assert {field.name for field in fields(Sampling)} == {*GenerationConfig.model_fields, "seed"}
    assert Sampling(**GenerationConfig().model_dump()) == Sampling()
    given = {"max_new_tokens": 5, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 40}
    assert Sampling(**GenerationConfig(**given).model_dump(), seed=7) == Sampling(**given, seed=7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0}, "temperature is 0; expected above 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected at least 1"),
        ({"num_beams": 0}, "num_beams"),
    ],
)
def test_impossible_values_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**given)
