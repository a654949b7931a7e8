"""The top of the page: what was trained, how it ended, the figures to remember, the curves."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from statistics import median

from finetune.report.markup import Html, element
from finetune.report.metrics import Metrics
from finetune.report.read import Json, RunFiles, number, section, words
from finetune.report.scale import figure
from finetune.report.scores import headline

STATUS = {
    "done": ("✓", "done"),
    "running": ("●", "running"),
    "preempted": ("‖", "stopped early, can be resumed"),
    "failed": ("✗", "failed"),
}
METHODS = {
    "LORA": "LoRA",
    "PREFIX_TUNING": "P-Tuning v2",
    "P_TUNING": "P-Tuning",
    "PROMPT_TUNING": "prompt tuning",
    "IA3": "IA³",
}
SIZES = {"r": "r {}", "num_virtual_tokens": "{} tokens"}


def title(files: RunFiles) -> str:
    """`glm-4-9b-chat · LoRA r 8`, as far as it is known."""
    named = words(files.run.get("model"))
    model = PurePath(named).name if named else files.folder.absolute().name
    return " · ".join(part for part in (model, method(files.run)) if part)


def method(run: Json) -> str:
    """How the weights were changed, in the words of the field; empty when the config is not known."""
    config = section(run, "config")
    if not config:
        return words(section(run, "base").get("tuning"))
    tuning = section(config, "peft_config")
    if not tuning:
        return "full fine-tuning"
    kind = words(tuning.get("peft_type"))
    size = next((" " + form.format(words(tuning[key])) for key, form in SIZES.items() if tuning.get(key)), "")
    quantized = words(section(config, "model_config").get("quantization"))
    return METHODS.get(kind, kind) + size + (f" on {quantized}" if quantized else "")


def header(files: RunFiles) -> Html:
    """Title, status, dates and command; the error of a run that failed; what the folder lacks."""
    sign, told = STATUS.get(words(files.run.get("status")), ("?", "status unknown"))
    state = words(files.run.get("status")) if words(files.run.get("status")) in STATUS else "unknown"
    pill = element("span", f"{sign} {told}", class_=f"pill {state}")
    return element(
        "header",
        element("p", "fine-tuning report", class_="eyebrow"),
        element("h1", title(files)),
        element("p", pill, element("span", _dates(files.run), class_="dim"), class_="under"),
        _progress(files),
        _stopped_early(files.run),
        _failure(files.run),
        _problems(files.problems),
    )


def _dates(run: Json) -> str:
    started, finished = _moment(run.get("started")), _moment(run.get("finished"))
    if started is None:
        return "date unknown"
    if finished is None:
        return f"since {started:%Y-%m-%d %H:%M}"
    try:
        return f"{started:%Y-%m-%d %H:%M} · took {span((finished - started).total_seconds())}"
    except TypeError:  # one with a time zone, one without
        return f"{started:%Y-%m-%d %H:%M}"


def _moment(value: object) -> datetime | None:
    """An ISO date, or seconds since 1970."""
    try:
        seconds = number(value)
        return datetime.fromisoformat(words(value)) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def span(seconds: float) -> str:
    """`8.4 s`, `5 min 12 s`, `3 h 04 min`, `2 d 5 h`."""
    if seconds < 59.95:
        return f"{max(seconds, 0):.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours == 0:
        return f"{minute} min {second:02} s"
    return f"{hours} h {minute:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _steps(files: RunFiles) -> tuple[float, float | None]:
    """Steps done, and steps planned where that is known."""
    return files.metrics.last_step, number(section(files.run, "plan").get("steps"))


def _progress(files: RunFiles) -> Html | None:
    done, planned = _steps(files)
    if not planned or files.run.get("status") == "done":
        return None
    label = f"{done:,.0f} of {planned:,.0f} steps logged"
    bar = element("progress", max=planned, value=min(done, planned), aria_label=label)
    return element("p", bar, element("span", label, class_="dim"), class_="progress")


def _stopped_early(run: Json) -> Html | None:
    """Why a run with early stopping ended before its last step."""
    why = words(section(run, "result").get("stopped_early"))
    return element("p", why[:1].upper() + why[1:] + ".", class_="dim") if why else None


def _failure(run: Json) -> Html | None:
    error = words(run.get("error"))
    if not error:
        return None
    code = number(run.get("exit_code"))
    heading = "Why it ended" + (f" (exit code {code:.0f})" if code is not None else "")
    return element("section", element("h2", heading), element("pre", error), class_="callout bad", role="alert")


def _problems(problems: Sequence[str]) -> Html | None:
    if not problems:
        return None
    items = [element("li", problem) for problem in problems]
    return element("section", element("h2", "What this page lacks"), element("ul", items), class_="callout")


def key_figures(files: RunFiles) -> Html | None:
    """Tiles: a name, a figure, what to compare it with."""
    tiles = [tile for tile in (*_quality_tiles(files), *_work_tiles(files)) if tile is not None]
    return element("section", tiles, class_="tiles", aria_label="key figures") if tiles else None


def _tile(name: str, value: str, note: str = "") -> Html:
    return element(
        "div",
        element("p", name, class_="name"),
        element("p", value, class_="value"),
        element("p", note, class_="note"),
        class_="tile",
    )


def _quality_tiles(files: RunFiles) -> list[Html | None]:
    return [_loss_tile(files), _eval_tile(files.metrics), _score_tile(files.run)]


def _loss_tile(files: RunFiles) -> Html | None:
    points = [(step, value) for step, value in files.metrics.curve("loss") if value is not None]
    if not points:
        return None
    note = f"{figure(points[0][1])} at step {points[0][0]:,.0f}"
    return _tile("training loss", figure(points[-1][1]), note)


def _eval_tile(metrics: Metrics) -> Html | None:
    points = [(value, step) for step, value in metrics.curve("eval_loss") if value is not None]
    if not points:
        return None
    best, step = min(points)
    return _tile("best eval loss", figure(best), f"at step {step:,.0f}")


def _score_tile(run: Json) -> Html | None:
    score = headline(run)
    if score is None:
        return None
    if score.base is None or score.tuned is None:
        return _tile(score.name, score.show(score.tuned if score.base is None else score.base), score.meaning)
    return _tile(score.name, score.show(score.tuned), f"base {score.show(score.base)}, {score.change()}")


def _work_tiles(files: RunFiles) -> list[Html | None]:
    return [
        _steps_tile(files),
        _time_tile(files),
        _speed_tile(files),
        _memory_tile(files),
        _size_tile(files.run),
    ]


def _steps_tile(files: RunFiles) -> Html | None:
    done, planned = _steps(files)
    if not done:
        return None
    per_step = number(section(files.run, "plan").get("conversations_per_step"))
    note = f"of {per_step:,.0f} conversations" if per_step else ""
    return _tile("optimizer steps", f"{done:,.0f}" + (f" / {planned:,.0f}" if planned else ""), note)


def _time_tile(files: RunFiles) -> Html | None:
    seconds = files.metrics.values("seconds")
    return _tile("training time", span(sum(seconds)), "without evaluation and saving") if seconds else None


def _speed_tile(files: RunFiles) -> Html | None:
    speeds = files.metrics.values("tokens_per_second")
    useful = files.metrics.values("supervised_tokens_per_second")
    if not speeds:
        return None
    note = f"{figure(median(useful))} supervised" if useful else ""
    return _tile("tokens/s, median", figure(median(speeds)), note)


def _memory_tile(files: RunFiles) -> Html | None:
    peaks = files.metrics.values("peak_memory_gb")
    return _tile("peak memory", f"{max(peaks):.1f} GB", "") if peaks else None


def _size_tile(run: Json) -> Html | None:
    base = section(run, "base")
    trainable, total = number(base.get("trainable")), number(base.get("parameters"))
    if not trainable:
        return None
    note = f"{100 * trainable / total:.3g} % of {_size(total)}" if total else ""
    return _tile("trained parameters", _size(trainable), note)


def _size(parameters: float) -> str:
    """As models are named: 9.4B, not 9.4G."""
    return figure(parameters).replace("G", "B")
