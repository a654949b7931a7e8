"""How a moment of training reads as one line of text. Pure: no terminal, no clock, no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

BLOCKS = "▁▂▃▄▅▆▇█"
GAP = "  "
# What a narrow terminal gives up first stands last. Step, loss and ETA stay as long as anything does.
IMPORTANCE = ("step", "loss", "eta", "speed", "spark", "rate", "norm", "supervised", "memory")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known after a step. `loss` is per supervised token, speeds are per second of training."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens_per_second: float
    supervised_per_second: float
    peak_memory_bytes: int
    seconds_left: float | None


def plain_line(reading: Reading) -> str:
    """The line of a log file: every figure, in columns that keep their places."""
    width = len(str(reading.total_steps))
    memory = (gigabytes(reading.peak_memory_bytes),) if reading.peak_memory_bytes else ()
    return GAP.join(
        (
            f"step {reading.step:>{width}}/{reading.total_steps}",
            f"epoch {reading.epoch:.2f}",
            f"loss {loss_text(reading.loss):>6}",
            f"lr {reading.learning_rate:.2e}",
            f"grad {short(reading.grad_norm):>5}",
            f"{short(reading.tokens_per_second)} tok/s ({short(reading.supervised_per_second)} supervised)",
            *memory,
            f"ETA {duration(reading.seconds_left)}",
        )
    )


def live_line(reading: Reading, history: Sequence[float], width: int, *, blocks: bool = True) -> str:
    """The same within `width` columns: what matters least is left out first.

    `history` are the smoothed losses so far; `blocks` False where the terminal cannot print a sparkline.
    """
    parts = _live_parts(reading, history if blocks else ())
    shown = {"step"}
    for name in IMPORTANCE:
        if parts[name] and len(_join(parts, shown | {name})) <= width:
            shown.add(name)
    return _join(parts, shown)[:width]


def _live_parts(reading: Reading, history: Sequence[float]) -> dict[str, str]:
    """In the order in which they are read, not in that of their importance."""
    share = reading.step / reading.total_steps if reading.total_steps else 0.0
    return {
        "step": f"{reading.step}/{reading.total_steps} {share:.0%}",
        "loss": f"loss {loss_text(reading.loss)}",
        "spark": sparkline(history),
        "rate": f"lr {reading.learning_rate:.1e}",
        "norm": f"grad {short(reading.grad_norm)}",
        "speed": f"{short(reading.tokens_per_second)} tok/s",
        "supervised": f"{short(reading.supervised_per_second)} supervised/s",
        "memory": gigabytes(reading.peak_memory_bytes) if reading.peak_memory_bytes else "",
        "eta": f"ETA {duration(reading.seconds_left)}",
    }


def _join(parts: Mapping[str, str], shown: set[str]) -> str:
    return GAP.join(text for name, text in parts.items() if name in shown)


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """At most `width` blocks over all of `values`, lowest to highest; nothing for fewer than two."""
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    picked = [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
    finite = [value for value in picked if isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(_block((v - low) / span) if isfinite(v) else "×" for v in picked)


def _block(share: float) -> str:
    return BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)]


def loss_text(loss: float) -> str:
    """Four figures, and more of them where a small loss would read as 0."""
    return f"{loss:.4f}" if not isfinite(loss) or loss == 0 or loss >= 0.001 else f"{loss:.1e}"


def short(value: float) -> str:
    """Three figures: 0.82, 12.4, 950, 1.23k, 4.5M."""
    if not isfinite(value):
        return str(value)
    if 0 < abs(value) < 0.01:
        return f"{value:.0e}"
    for divisor, unit in ((1, ""), (1e3, "k"), (1e6, "M")):
        if abs(value) < 999.5 * divisor:
            return _three_figures(value / divisor) + unit
    return _three_figures(value / 1e9) + "G"


def _three_figures(value: float) -> str:
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}"


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def duration(seconds: float | None) -> str:
    """`h:mm:ss`, with the days in front of it where there are any; `?` when unknown."""
    if seconds is None or not isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d {hour}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"
