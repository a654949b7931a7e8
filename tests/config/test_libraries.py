"""Our tables of names and defaults against transformers' and peft's own, so that no key slips past us."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from transformers import GenerationConfig, Seq2SeqTrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, Adafactor
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from finetune.config import fsdp_keys, generation, peft_keys, transformers_keys
from finetune.config.arguments import OWNERS, Optimizer, Schedule, TrainingArgs
from finetune.config.fsdp import FsdpConfig
from finetune.config.legacy import RENAMED
from finetune.config.library_options import OPTIMIZERS, OWN_KEYS, SCHEDULES
from finetune.config.section import Section
from finetune.config.tuning import OURS_ALONE, TUNINGS

OURS_IN_PLACE_OF_NONE = {
    "output_dir": "trainer_output",
    "generation_config": {},
    "report_to": [],
}
"""Where transformers has null (or "none") and works out the value later, ours stands in the schema."""

GONE = {"group_by_length", "logging_dir", "overwrite_output_dir", "save_safetensors"}


def defaults_of(dataclass: type) -> dict[str, Any]:
    """Field -> default; enums as the text that YAML has."""
    found = {}
    for field in fields(dataclass):
        value = field.default if field.default is not MISSING else field.default_factory()
        found[field.name] = value.value if isinstance(value, Enum) else value
    return found


TRANSFORMERS = defaults_of(Seq2SeqTrainingArguments)


def test_every_key_of_transformers_has_a_place() -> None:
    renamed = {old[1] for old in RENAMED if old[0] == "training_args"}
    ours = set(OWNERS) | set(transformers_keys.NOT_HONOURED) | set(transformers_keys.NO_EFFECT) | renamed
    assert set(TRANSFORMERS) - ours == set()


def test_no_key_has_two_places() -> None:
    tables = [set(OWNERS), set(transformers_keys.NOT_HONOURED), set(transformers_keys.NO_EFFECT)]
    assert len(set.union(*tables)) == sum(map(len, tables))


def test_we_know_no_key_that_transformers_does_not_have() -> None:
    ours = set(OWNERS) | set(transformers_keys.NOT_HONOURED) | set(transformers_keys.NO_EFFECT)
    assert ours - set(TRANSFORMERS) == GONE


def test_honoured_keys_have_transformers_defaults() -> None:
    flat = TrainingArgs().model_dump()
    expected = {key: OURS_IN_PLACE_OF_NONE.get(key, TRANSFORMERS[key]) for key in OWNERS}
    ours = {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}
    assert ours | {"generation_config": {}} == expected


def test_other_keys_have_transformers_defaults() -> None:
    no_effect = {key: entry.default for key, entry in transformers_keys.NO_EFFECT.items() if key not in GONE}
    ours = {**transformers_keys.NOT_HONOURED, **no_effect}
    assert ours == {key: TRANSFORMERS[key] for key in ours}


def test_fsdp_config_has_the_keys_that_transformers_reads() -> None:
    source = inspect.getsource(Seq2SeqTrainingArguments._process_fsdp_args)
    theirs = set(re.findall(r'self\.fsdp_config(?:\.get\(|\.setdefault\(|\[)"(\w+)"', source))
    tables = [set(FsdpConfig.model_fields), set(fsdp_keys.NOT_HONOURED), set(fsdp_keys.NO_EFFECT)]
    assert set.union(*tables) == theirs
    assert len(theirs) == sum(map(len, tables))


def test_generation_config_is_known_in_full() -> None:
    theirs = {key for key in GenerationConfig().to_dict() if not key.startswith("_")} - {"transformers_version"}
    ours = set(generation.GenerationConfig.model_fields)
    assert theirs == ours | transformers_keys.GENERATION_KEYS
    assert not ours & transformers_keys.GENERATION_KEYS


def test_optimizers_and_schedules_are_transformers_own() -> None:
    optimizers = set(Optimizer.model_json_schema()["properties"]["optim"]["enum"])
    schedules = set(Schedule.model_json_schema()["properties"]["lr_scheduler_type"]["enum"])
    assert optimizers <= {name.value for name in OptimizerNames}
    assert {name.value for name in SchedulerType} - schedules == {"reduce_lr_on_plateau", "greedy"}


def options_of(section: type[Section], but: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
    """Option -> default, MISSING where there is none."""
    fields = section.model_fields.items()
    return {name: but.get(name, MISSING if field.is_required() else field.default) for name, field in fields}


def parameters_of(function: Callable[..., object], leave_out: set[str]) -> dict[str, object]:
    """Keyword -> default, likewise."""
    parameters = inspect.signature(function).parameters.values()
    return {
        one.name: MISSING if one.default is one.empty else one.default
        for one in parameters
        if one.name not in leave_out
    }


@pytest.mark.parametrize("kind", SCHEDULES)
def test_options_of_a_schedule_are_those_of_its_function(kind: str) -> None:
    of_the_run = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    function = TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(kind)]
    assert options_of(SCHEDULES[kind]) == parameters_of(function, of_the_run)


NOT_FOR_US = {"self", "params", "optim_bits", "args"}
"""`optim_bits`, `args`: bitsandbytes' 8-bit optimizers refuse what is not their default."""

OPTIMIZER_CLASSES: Mapping[str, Callable[..., object]] = {
    "adamw_torch": torch.optim.AdamW,
    "adamw_torch_fused": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adafactor": Adafactor,
}
OTHERWISE: Mapping[str, Mapping[str, object]] = {
    "adamw_torch_fused": {"fused": None},
    "adafactor": {"scale_parameter": True, "relative_step": True},
}
"""Where ours is another default, theirs."""


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_options_of_an_optimizer_are_those_of_its_class(kind: str) -> None:
    maker = OPTIMIZER_CLASSES.get(kind)
    if maker is None:
        bitsandbytes = pytest.importorskip("bitsandbytes.optim")
        maker = bitsandbytes.PagedAdamW8bit if kind.startswith("paged") else bitsandbytes.AdamW8bit
    own = set() if kind in ("adagrad", "rmsprop", "adafactor") else {"eps"}
    theirs = parameters_of(maker, NOT_FOR_US | (OWN_KEYS.keys() - {"eps"}) | own)
    if "8bit" in kind:
        del theirs["amsgrad"]  # refused by bitsandbytes itself when true
    assert options_of(OPTIMIZERS[kind], OTHERWISE.get(kind, {})) == theirs


PEFT = {
    "LORA": LoraConfig,
    "IA3": IA3Config,
    "PREFIX_TUNING": PrefixTuningConfig,
    "P_TUNING": PromptEncoderConfig,
    "PROMPT_TUNING": PromptTuningConfig,
}
NOT_YAML = {"runtime_config"}
"""An object of peft's own, with nothing in it that a configuration file could want."""


@pytest.mark.parametrize("kind", PEFT)
def test_every_option_of_peft_has_a_place_and_peft_s_default(kind: str) -> None:
    theirs = {key: value for key, value in defaults_of(PEFT[kind]).items() if key not in NOT_YAML}
    section = TUNINGS[kind]
    honoured = {
        key: field.get_default(call_default_factory=True)
        for key, field in section.model_fields.items()
        if key not in OURS_ALONE
    }
    ours: Mapping[str, Any] = {**honoured, **peft_keys.NOT_HONOURED[kind]}
    differently = {"peft_type", "task_type", "num_virtual_tokens"}  # what ours needs, or fixes
    assert set(ours) == set(theirs)
    assert {key: ours[key] for key in ours if key not in differently} == {
        key: theirs[key] for key in theirs if key not in differently
    }
    assert not set(honoured) & set(peft_keys.NOT_HONOURED[kind])
