"""What lies in a run folder, read only, and what a person may mean by MODEL_OR_RUN.

output/run.json  metrics.jsonl  predictions.jsonl  report.html  checkpoint-<step>/manifest.json …
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.disk import encoded, write_atomically
from finetune.errors import CheckpointError, ModelError
from finetune.manifest import MANIFEST_FILE, FileEntry, Manifest, verify
from finetune.plain_json import read_json
from finetune.printing import Lines

__all__ = [
    "MANIFEST_FILE",
    "METRICS_FILE",
    "PREDICTIONS_FILE",
    "REJECTED_FILE",
    "REPORT_FILE",
    "RUN_FILE",
    "TRACE_FILE",
    "FileEntry",
    "Manifest",
    "Source",
    "checkpoints",
    "chosen_checkpoint",
    "is_hub_id",
    "read_run",
    "resolve",
    "step_of",
    "verify",
    "write_json",
]

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
PREDICTIONS_FILE = "predictions.jsonl"
REJECTED_FILE = "rejected.jsonl"
REPORT_FILE = "report.html"
TRACE_FILE = "trace.json.gz"

_KINDS = {"config": dict, "model": str, "data_dir": str, "data": list, "result": dict, "before": dict}
_WITHOUT_IT = "move it away, and the checkpoints beside it can still be used and resumed"

_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9]\d*)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Source:
    """What to load so that a model, adapter, checkpoint or run talks."""

    model: Path | str
    """Folder or Hub id of the base model, or of the whole tuned model."""
    adapter: Path | None
    run: Path | None
    template: Path | str
    """Where tokenizer and chat template lie; a Hub id only where `model` is one."""
    note: str
    """One line for the screen: what was taken, and why."""


def step_of(checkpoint: Path) -> int:
    """The optimizer step in a checkpoint folder's name."""
    found = _CHECKPOINT.fullmatch(checkpoint.name)
    assert found, f"{checkpoint} is not called checkpoint-<step>"
    return int(found[1])


def checkpoints(output: Path) -> list[Path]:
    """The `checkpoint-<step>` folders of a run, highest step first; damaged ones too."""
    if not _holds(output.is_dir):
        return []
    found = [path for path in output.iterdir() if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def _holds(question: Callable[[], bool]) -> bool:
    """What pathlib says, and False where it raises: on names that are too long to be any path."""
    try:
        return question()
    except OSError:
        return False


def chosen_checkpoint(output: Path) -> tuple[Path, str]:
    """The checkpoint that stands for a run, and why: the best one if the run chose one, else the newest.

    Raises CheckpointError when none verifies, with the reason for each.
    """
    reasons = []
    for checkpoint, why in _preferred(output):
        try:
            verify(checkpoint)
        except CheckpointError as error:
            reasons.append(str(error))
        else:
            return checkpoint, "; ".join([why, *(f"left out: {reason}" for reason in reasons)])
    raise CheckpointError(Lines([f"{output}: no checkpoint can be used", *reasons]))


def _preferred(output: Path) -> list[tuple[Path, str]]:
    newest_first = [(checkpoint, "newest") for checkpoint in checkpoints(output)]
    run = read_run(output) if (output / RUN_FILE).exists() else {}
    result = run.get("result") or {}
    if not result.get("best_checkpoint"):
        return newest_first
    best = output / Path(result["best_checkpoint"]).name
    return [(best, f"best {_best_score(run)}"), *(pair for pair in newest_first if pair[0] != best)]


def _best_score(run: Mapping[str, Any]) -> str:
    value = run["result"].get("best_metric")
    name = run.get("config", {}).get("training_args", {}).get("metric_for_best_model") or "eval_loss"
    return f"{name} {value:.4g}" if isinstance(value, int | float) else name


def read_run(output: Path, *needed: str) -> dict[str, Any]:
    """`run.json` of a run folder. Raises ModelError where it is missing, damaged or without a `needed` key."""
    path = output / RUN_FILE
    try:
        run = read_json(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; give a folder that `finetune train` wrote") from None
    except ValueError as error:
        raise ModelError(f"{path}: damaged: not JSON ({error}); {_WITHOUT_IT}") from None
    if not isinstance(run, dict):
        raise ModelError(f"{path}: damaged: not a JSON object; {_WITHOUT_IT}")
    for key, kind in _KINDS.items():
        if (key in needed and run.get(key) is None) or not isinstance(run.get(key), kind | None):
            raise ModelError(
                f"{path}: damaged: {key} is missing, or is not what finetune writes; {_WITHOUT_IT}"
            )
    return run


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, whole or not at all. Raises StorageError."""
    write_atomically(path, encoded(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def resolve(model_or_run: str) -> Source:
    """Find what to load for a model folder, a Hub id, an adapter, a checkpoint or a run folder.

    Raises ModelError saying what was looked for, CheckpointError where a run's checkpoints are damaged.
    """
    folder = Path(model_or_run).expanduser()
    if _holds(folder.is_dir):
        return _resolve_folder(folder)
    if is_hub_id(model_or_run):
        return Source(model_or_run, None, None, model_or_run, f"{model_or_run} from the Hub")
    what = "a file, not a folder" if _holds(folder.exists) else "no such folder"
    raise ModelError(
        f"{model_or_run}: {what}; give a model, adapter, checkpoint or run folder, or a Hub id like owner/name"
    )


def is_hub_id(name: str) -> bool:
    """Whether a name that is no folder can be a Hub id; `output/checkpoint-9` is a mistaken path."""
    owner, _, rest = name.partition("/")
    return bool(_HUB_ID.fullmatch(name)) and not Path(owner).exists() and not _CHECKPOINT.fullmatch(rest)


def _resolve_folder(folder: Path) -> Source:
    if (folder / MANIFEST_FILE).exists():
        _require_whole(folder)
        return _resolve_model(folder, _run_of(folder), f"{folder}")
    if (folder / RUN_FILE).exists() or checkpoints(folder):
        checkpoint, why = chosen_checkpoint(folder)
        return _resolve_model(checkpoint, _run_of(checkpoint), f"{checkpoint} ({why})")
    return _resolve_model(folder, None, f"{folder}")


def _require_whole(folder: Path) -> None:
    try:
        verify(folder)
    except CheckpointError as error:
        advice = f"copy it again, or, if you changed it on purpose, remove its {MANIFEST_FILE}"
        raise CheckpointError(f"{error}; {advice}") from None


def _run_of(checkpoint: Path) -> Path | None:
    parent = checkpoint.absolute().parent
    return parent if (parent / RUN_FILE).exists() else None


def _resolve_model(folder: Path, run: Path | None, note: str) -> Source:
    """A folder that itself holds an adapter or a model."""
    if (folder / "adapter_config.json").exists():
        base = _base_of_adapter(folder, run)
        template = folder if _has_tokenizer(folder) else base
        return Source(base, folder, run, template, f"{note}: an adapter on {base}")
    if (folder / "config.json").exists():
        return Source(folder, None, run, folder, note)
    raise ModelError(
        f"{folder}: holds no config.json (a model), adapter_config.json (an adapter), {MANIFEST_FILE} "
        f"(a checkpoint) or {RUN_FILE} (a run)"
    )


def _base_of_adapter(adapter: Path, run: Path | None) -> Path | str:
    path = adapter / "adapter_config.json"
    try:
        named = read_json(path).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: damaged: {error}") from None
    names = [name for name in (named, read_run(run).get("model") if run else None) if isinstance(name, str)]
    for name in filter(None, names):
        if Path(name).expanduser().is_dir():
            return Path(name).expanduser()
    for name in names:
        if is_hub_id(name):
            return str(name)
    raise ModelError(
        f"{path}: its base model {named!r} is not there; put it back, "
        "or write where it is into base_model_name_or_path"
    )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in _TOKENIZER_FILES)
