"""configs/README.md, written from the schema: `python -m finetune.config.reference > configs/README.md`."""

import inspect
from collections.abc import Iterator

from finetune.config import fsdp_keys, peft_keys, transformers_keys
from finetune.config.arguments import TrainingArgs
from finetune.config.fsdp import FsdpConfig
from finetune.config.generation import GenerationConfig
from finetune.config.keys import in_yaml, keys_of
from finetune.config.placement import GradientCheckpointing
from finetune.config.schema import (
    Config,
    DataConfig,
    EarlyStopping,
    EvaluationConfig,
    FileShare,
    ModelConfig,
    RunConfig,
)
from finetune.config.section import Section
from finetune.config.tuning import TUNINGS
from finetune.shipped import SHIPPED

_INTRODUCTION = """\
# Configuration

<!-- Written by `python -m finetune.config.reference > configs/README.md`; a test compares. -->

`finetune train DATA_DIR MODEL CONFIG` takes one YAML 1.2 file: GLM-4's own shape, extended. Any key can
be given on the command line as well: `--set training_args.learning_rate=1e-4`. What is absent has the default
below, and whatever is wrong is told at once, with line and column, before anything is loaded.

`finetune explain KEY` tells the same of one key, and what another tool's name is called here. An editor with
a YAML language server completes and checks keys by [schema.json](schema.json), which the files name in line 1.

## The files here

Each YAML opens with the command that runs it. A DeepSpeed file is found from here, beside the YAML, in the
folder above it, and among these by its name alone.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    yield from _shipped_files()
    yield from _section("The top level", Config)
    yield from _section("data_config", DataConfig)
    yield from _section("data_config.train_file, as a list", FileShare)
    yield from _section("model_config", ModelConfig)
    yield from _section("run", RunConfig)
    yield from _section("run.early_stopping", EarlyStopping)
    yield from _section("evaluation", EvaluationConfig)
    yield from _training_args()
    for kind, section in TUNINGS.items():
        yield from _section(f"peft_config, peft_type {kind}", section)
    yield from _other_keys()


def _shipped_files() -> Iterator[str]:
    folder = SHIPPED[0]
    yield "| file | command |\n|---|---|"
    for file in sorted(folder.rglob("*.yaml")):
        comments = [line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        command = next(line for line in comments if "finetune train" in line)
        yield f"| [{file.relative_to(folder)}]({file.relative_to(folder)}) | `{command.split('      ')[0]}` |"
    for file in sorted(folder.glob("ds_*.json")):
        yield f"| [{file.name}]({file.name}) | `training_args.deepspeed: {file.name}` |"


def _training_args() -> Iterator[str]:
    yield "\n## training_args"
    yield "\nThe keys stand flat in the YAML; the groups below are the parts of training that read them."
    for name, field in TrainingArgs.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        yield from _table(name, field.annotation)
    yield from _table("fsdp_config", FsdpConfig)
    yield from _table("generation_config", GenerationConfig)
    yield from _table("gradient_checkpointing_kwargs", GradientCheckpointing)


def _section(title: str, section: type[Section]) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield f"{inspect.getdoc(section)}\n"
    yield from _rows("peft_config" if section in TUNINGS.values() else "", section)


def _table(title: str, section: type[Section]) -> Iterator[str]:
    yield f"\n### {title}: {str(inspect.getdoc(section)).lower()[0]}{str(inspect.getdoc(section))[1:]}\n"
    yield from _rows("", section)


def _rows(level: str, section: type[Section]) -> Iterator[str]:
    yield "| key | value | default | |\n|---|---|---|---|"
    for key in keys_of(level, section):
        default = key.default if key.default in ("", "needed") else f"`{key.default}`"
        yield f"| `{key.name}` | {key.value} | {default} | {key.text} |"


def _other_keys() -> Iterator[str]:
    yield "\n## Keys that have no effect\n\nAccepted, with one line that says so."
    yield "\n| key of training_args | why |\n|---|---|"
    yield from (f"| `{key}` | {entry.why} |" for key, entry in transformers_keys.NO_EFFECT.items())
    yield from (f"| `fsdp_config.{key}` | {entry.why} |" for key, entry in fsdp_keys.NO_EFFECT.items())
    yield "\n## Keys we do not honour"
    yield "\nAccepted at the value they have when nobody sets them, and refused by name at any other."
    yield "\n| key of training_args | default | instead |\n|---|---|---|"
    for key, default in transformers_keys.NOT_HONOURED.items():
        yield f"| `{key}` | `{in_yaml(default)}` | {transformers_keys.ADVICE.get(key, '')} |"
    for key, default in fsdp_keys.NOT_HONOURED.items():
        yield f"| `fsdp_config.{key}` | `{in_yaml(default)}` | {fsdp_keys.ADVICE[key]} |"
    yield "\n| key of peft_config | of | default | why |\n|---|---|---|---|"
    for key, kinds in _keys_of_peft().items():
        default = peft_keys.NOT_HONOURED[kinds[0]][key]
        yield f"| `{key}` | {', '.join(kinds)} | `{in_yaml(default)}` | {peft_keys.ADVICE.get(key, '')} |"


def _keys_of_peft() -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for kind, known in peft_keys.NOT_HONOURED.items():
        for key in known:
            keys.setdefault(key, []).append(kind)
    return keys


if __name__ == "__main__":
    print(reference(), end="")
