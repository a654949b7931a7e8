"""A run folder as values. Nothing is required: what is missing or damaged is told in one sentence each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.folder import METRICS_FILE, PREDICTIONS_FILE, RUN_FILE
from finetune.plain_json import parse_json, read_json
from finetune.redaction import record_without_secrets
from finetune.report.metrics import Metrics, number

SHOWN_PREDICTIONS = 12
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What could be read. `predictions` are a selection of `prediction_count`, worst ROUGE-L first."""

    folder: Path
    run: Json
    metrics: Metrics
    predictions: Sequence[Json]
    prediction_count: int
    problems: Sequence[str]


def read_run_files(folder: Path) -> RunFiles:
    """Never raises for a file that is missing, half written or not what we know; holds no access token."""
    run, run_problems = _read_object(folder / RUN_FILE)
    metrics, metrics_problems = _read_metrics(folder / METRICS_FILE)
    predictions, count, prediction_problems = _read_predictions(folder / PREDICTIONS_FILE)
    problems = [*run_problems, *metrics_problems, *prediction_problems]
    return RunFiles(folder, run, metrics, predictions, count, problems)


def _read_object(path: Path) -> tuple[Json, list[str]]:
    try:
        value = read_json(path)
    except OSError as error:
        return {}, [_absent(path, error, "config, data, scores and versions are unknown")]
    except (ValueError, RecursionError):
        return {}, [_damaged(path)]
    if not isinstance(value, dict):
        return {}, [_damaged(path)]
    return record_without_secrets(value), []


def _damaged(path: Path) -> str:
    return f"{path.name} is damaged: config, data, scores and versions are unknown"


def _read_metrics(path: Path) -> tuple[Metrics, list[str]]:
    metrics, damaged = Metrics(), 0
    try:
        with path.open("rb") as file:
            for line in filter(bytes.strip, file):
                value = _parse(line)
                damaged += value is None
                metrics.add(value or {})
    except OSError as error:
        return metrics, [_absent(path, error, "there are no curves")]
    return metrics, _damage(path, damaged)


def _read_predictions(path: Path) -> tuple[list[Json], int, list[str]]:
    """Remembers where each line stands, not the line: the file may be larger than memory."""
    ranked: list[tuple[float, int]] = []
    damaged = 0
    try:
        with path.open("rb") as file:
            for position, line in _positions(file):
                value = _parse(line)
                damaged += value is None
                ranked += [(_rank(value), position)] if value is not None else []
            ranked.sort()
            picked = [_line_at(file, position) for _, position in spread(ranked, SHOWN_PREDICTIONS)]
    except OSError as error:
        return [], 0, [] if isinstance(error, FileNotFoundError) else [_absent(path, error, "no samples")]
    return picked, len(ranked), _damage(path, damaged)


def _positions(file: Any) -> Iterator[tuple[int, bytes]]:
    position = 0
    for line in file:
        if line.strip():
            yield position, line
        position += len(line)


def _line_at(file: Any, position: int) -> Json:
    file.seek(position)
    return _parse(file.readline()) or {}


def _rank(prediction: Json) -> float:
    score = number(section(prediction, "scores").get("rouge-l"))
    call = section(prediction, "tool_call")
    if call:
        return 100.0 * (bool(call.get("name")) + bool(call.get("arguments"))) / 2
    return -1.0 if score is None else score


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `values`, evenly from the first to the last."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _parse(line: bytes) -> Json | None:
    try:
        value = parse_json(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _absent(path: Path, error: OSError, consequence: str) -> str:
    reason = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    return f"{path.name} {reason}: {consequence}"


def _damage(path: Path, count: int) -> list[str]:
    lines = "1 line that does" if count == 1 else f"{count} lines that do"
    return [f"{path.name} has {lines} not parse, left out here"] if count else []


def section(value: Json, name: str) -> Json:
    """The mapping under `name`; an empty one where there is none."""
    inner = value.get(name)
    return inner if isinstance(inner, Mapping) else {}


def rows(value: Json, name: str) -> list[Any]:
    """The list under `name`; an empty one where there is none."""
    inner = value.get(name)
    return inner if isinstance(inner, list) else []


def words(value: object) -> str:
    """A string as it is, nothing for None, and compact JSON for the rest."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
