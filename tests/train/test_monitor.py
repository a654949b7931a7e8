"""What a run shows and writes down. Time is real but asserted only where it cannot wobble."""

import errno
import io
import json
import math
import os
import pty
import time
from pathlib import Path

import pytest

from finetune import log
from finetune.errors import StorageError
from finetune.train.monitor.metrics_file import MetricsFile, truncate_metrics
from finetune.train.monitor.monitor import Monitor
from finetune.train.monitor.progress import (
    Reading,
    duration,
    live_line,
    loss_text,
    plain_line,
    short,
    sparkline,
)
from finetune.train.monitor.watch import LossWatch

READING = Reading(
    step=120,
    total_steps=3000,
    epoch=0.04,
    loss=1.23456,
    grad_norm=0.8234,
    learning_rate=5e-4,
    tokens_per_second=12345.0,
    supervised_per_second=3456.0,
    peak_memory_bytes=19_500_000_000,
    seconds_left=3725.0,
)
FALLING = [3.0 - i / 50 for i in range(100)]


def step(monitor: Monitor, number: int, loss: float = 1.0, tokens: int = 100, supervised: int = 50) -> None:
    monitor.record(
        number,
        epoch=number / 10,
        loss=loss,
        grad_norm=0.5,
        learning_rate=1e-3,
        tokens=tokens,
        supervised_tokens=supervised,
        peak_memory_bytes=2_000_000_000,
    )


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_written_every_logging_steps_and_for_the_first_and_last_step(tmp_path: Path) -> None:
    with Monitor(tmp_path, total_steps=8, logging_steps=3) as monitor:
        for number in range(1, 9):
            step(monitor, number)
    assert [line["step"] for line in lines(tmp_path)] == [1, 3, 6, 8]


def test_without_first_step_the_first_line_is_that_of_logging_steps(tmp_path: Path) -> None:
    with Monitor(tmp_path, total_steps=4, logging_steps=2, first_step=False) as monitor:
        for number in range(1, 5):
            step(monitor, number)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]


def test_the_loss_of_a_line_is_the_mean_over_supervised_tokens_not_over_steps(tmp_path: Path) -> None:
    with Monitor(tmp_path, total_steps=2, logging_steps=2, first_step=False) as monitor:
        step(monitor, 1, loss=4.0, supervised=1)
        step(monitor, 2, loss=2.0, supervised=3)
    (line,) = lines(tmp_path)
    assert line["loss"] == (4.0 * 1 + 2.0 * 3) / 4
    assert line["supervised_tokens"] == 4 and line["tokens"] == 200
    assert monitor.final_loss == 2.5


def test_a_line_holds_every_figure_under_its_name(tmp_path: Path) -> None:
    with Monitor(tmp_path, total_steps=1, logging_steps=1) as monitor:
        step(monitor, 1)
    assert set(lines(tmp_path)[0]) == {
        *("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "supervised_tokens"),
        *("tokens_per_second", "supervised_tokens_per_second", "peak_memory_gb", "seconds"),
    }


def test_a_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    with Monitor(tmp_path, total_steps=9, logging_steps=1) as monitor:
        step(monitor, 1)
        assert [line["step"] for line in lines(tmp_path)] == [1]


def test_steps_after_the_last_line_are_written_when_the_run_ends_early(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Monitor(tmp_path, total_steps=100, logging_steps=10) as monitor:
        for number in (1, 2, 3):
            step(monitor, number, loss=float(number))
        raise KeyboardInterrupt
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1.0), (3, 2.5)]


def test_an_evaluation_has_a_line_of_its_own_with_prefixed_names(tmp_path: Path) -> None:
    with Monitor(tmp_path, total_steps=2, logging_steps=1) as monitor:
        step(monitor, 1)
        monitor.event(1, {"eval_loss": 0.9, "rouge-l": 41.25})
    assert lines(tmp_path)[1] == {"step": 1, "epoch": 0.1, "eval_loss": 0.9, "eval_rouge-l": 41.25}


def test_trackers_get_the_lines_that_are_written(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    with Monitor(
        tmp_path, total_steps=2, logging_steps=1, trackers=lambda v, s: seen.append((s, v["loss"]))
    ) as m:
        step(m, 1, loss=3.0)
        step(m, 2, loss=2.0)
    assert seen == [(1, 3.0), (2, 2.0)]


def test_a_tracker_that_fails_is_told_once_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(values: dict[str, float], step: int) -> None:
        raise ConnectionError("no route to host")

    with Monitor(tmp_path, total_steps=3, logging_steps=1, trackers=offline) as monitor:
        for number in (1, 2, 3):
            step(monitor, number)
    assert len(lines(tmp_path)) == 3
    assert capsys.readouterr().err.count("no route to host") == 1


def test_time_spent_in_pause_is_not_training_time(tmp_path: Path) -> None:
    started = time.perf_counter()
    with Monitor(tmp_path, total_steps=1, logging_steps=1) as monitor:
        with monitor.pause():
            time.sleep(0.2)
        step(monitor, 1, tokens=1000)
    trained = time.perf_counter() - started - 0.2
    (line,) = lines(tmp_path)
    assert line["seconds"] <= trained
    assert line["tokens_per_second"] >= 1000 / trained


def test_a_loss_that_is_not_finite_is_null_in_the_file_and_seen_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(tmp_path, total_steps=1, logging_steps=1) as monitor:
        step(monitor, 1, loss=math.nan)
    assert lines(tmp_path)[0]["loss"] is None
    assert "loss    nan" in capsys.readouterr().err


def test_only_the_main_process_writes_and_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with Monitor(tmp_path, total_steps=1, logging_steps=1) as monitor, monitor.pause():
        step(monitor, 1)
        monitor.event(1, {"loss": 1.0})
    assert not (tmp_path / "metrics.jsonl").exists()
    assert capsys.readouterr() == ("", "")


def test_off_a_terminal_there_is_one_plain_line_per_log_step_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(tmp_path, total_steps=4, logging_steps=2) as monitor:
        for number in range(1, 5):
            step(monitor, number, loss=2.0)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == ["step 1/4", "step 2/4", "step 4/4"]
    assert "\x1b" not in err and "loss 2.0000" in err and "lr 1.00e-03" in err


def test_the_first_step_is_always_shown_also_of_a_resumed_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitor(tmp_path, total_steps=100, start_step=41, logging_steps=50, first_step=False) as monitor:
        step(monitor, 42)
        assert "step  42/100" in capsys.readouterr().err
        assert lines(tmp_path) == []


def test_a_quiet_log_level_silences_the_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.set_level("error")
    try:
        with Monitor(tmp_path, total_steps=1, logging_steps=1) as monitor:
            step(monitor, 1)
    finally:
        log.set_level("info")
    assert capsys.readouterr().err == ""
    assert len(lines(tmp_path)) == 1


def test_a_resumed_run_continues_the_file_where_its_checkpoint_stood(tmp_path: Path) -> None:
    with Monitor(tmp_path, total_steps=6, logging_steps=1) as monitor:
        for number in range(1, 5):
            step(monitor, number, loss=9.0)
    with Monitor(tmp_path, total_steps=6, start_step=2, logging_steps=1) as monitor:
        for number in range(3, 7):
            step(monitor, number, loss=1.0)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        *((1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0), (5, 1.0), (6, 1.0))
    ]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ('{"step": 1}\n{"step": 2}\n{"step": 3}\n', '{"step": 1}\n{"step": 2}\n'),
        ('{"step": 1}\n{"step": 2, "lo', '{"step": 1}\n'),
        ('{"step": 1}\n{"step": 2}', '{"step": 1}\n'),
        ('{"step": 1}\n\x00\x00\x00\n{"step": 2}\n', '{"step": 1}\n{"step": 2}\n'),
        ('{"step": 1}\n[]\n{"loss": 1}\nnull\n', '{"step": 1}\n'),
        ("", ""),
    ],
)
def test_truncating_keeps_whole_lines_up_to_the_step(tmp_path: Path, written: str, kept: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(written)
    truncate_metrics(path, 2)
    assert path.read_text() == kept
    assert list(tmp_path.iterdir()) == [path]


def test_truncating_a_file_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    truncate_metrics(tmp_path / "metrics.jsonl", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_storage_error_that_names_the_file(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file._file = io.TextIOWrapper(io.BufferedWriter(_FullDisk()))
    with pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full"):
        file.write({"step": 1})


class _FullDisk(io.RawIOBase):
    """What /dev/full is, on systems that have none."""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- warnings


def test_a_spike_is_told_once() -> None:
    watch = LossWatch()
    usual = [watch.look(i, 2.0 + 0.05 * (i % 3)) for i in range(1, 31)]
    first, second = watch.look(31, 9.0), watch.look(32, 9.5)
    assert usual == [None] * 30
    assert first is not None and "jumped to 9 at step 31" in first
    assert second is None


def test_noise_and_a_falling_loss_are_no_spikes() -> None:
    watch = LossWatch()
    losses = [8.0 / i + 0.3 * (i % 2) + 0.1 for i in range(1, 200)]
    assert [watch.look(i, loss) for i, loss in enumerate(losses)] == [None] * len(losses)


def test_a_loss_near_zero_is_told_once() -> None:
    watch = LossWatch()
    told = [watch.look(i, loss) for i, loss in enumerate([0.5, 0.0, 0.0])]
    assert told[0] is None and told[2] is None
    assert told[1] is not None and "suspiciously near 0" in told[1]


# --- the text of a line


def test_the_plain_line_shows_every_figure() -> None:
    assert plain_line(READING) == (
        "step  120/3000  epoch 0.04  loss 1.2346  lr 5.00e-04  grad  0.82  "
        "12.3k tok/s (3.46k supervised)  19.5 GB  ETA 1:02:05"
    )


def test_the_live_line_of_a_wide_terminal_shows_everything() -> None:
    assert live_line(READING, FALLING, 120) == (
        "120/3000 4%  loss 1.2346  ██▇▇▆▆▅▅▄▄▃▃▂▂▁▁  lr 5.0e-04  grad 0.82  12.3k tok/s  3.46k supervised/s  "
        "19.5 GB  ETA 1:02:05"
    )


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (60, "120/3000 4%  loss 1.2346  12.3k tok/s  19.5 GB  ETA 1:02:05"),
        (40, "120/3000 4%  loss 1.2346  ETA 1:02:05"),
        (25, "120/3000 4%  loss 1.2346"),
        (8, "120/3000"),
    ],
)
def test_a_narrow_terminal_keeps_what_matters_most(width: int, expected: str) -> None:
    assert live_line(READING, FALLING, width) == expected


def test_no_width_overflows() -> None:
    assert all(len(live_line(READING, FALLING, width)) <= width for width in range(0, 160))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([1.0], ""),
        ([2.0, 1.0], "█▁"),
        ([1.0, 1.0, 1.0], "▁▁▁"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([math.nan, 1.0, 2.0], "×▁█"),
        ([math.nan, math.inf], ""),
    ],
)
def test_a_sparkline_spans_the_lowest_to_the_highest_value(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(0, "0.00"), (0.0004, "4e-04"), (0.82, "0.82"), (12.44, "12.4"), (950, "950"), (999.7, "1.00k")],
        *[(12_345, "12.3k"), (4.5e6, "4.50M"), (2e12, "2000G"), (math.inf, "inf")],
    ],
)
def test_numbers_are_shown_with_three_figures(value: float, expected: str) -> None:
    assert short(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (90061, "1d 1:01:01"), (None, "?")],
)
def test_durations_are_shown_as_a_clock_shows_them(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_tiny_loss_does_not_read_as_zero() -> None:
    assert [loss_text(loss) for loss in (1.0, 0.001, 0.00004, 0.0)] == ["1.0000", "0.0010", "4.0e-05", "0.0000"]


# --- on a real terminal

PROGRAM = """
import sys
from pathlib import Path
from finetune import log
from finetune.train.monitor.monitor import Monitor
with Monitor(Path(sys.argv[1]), total_steps=4, logging_steps=2) as monitor:
    for number in range(1, 5):
        monitor.record(number, epoch=0.1, loss=5.0 - number, grad_norm=0.5, learning_rate=1e-3, tokens=10,
                       supervised_tokens=5, peak_memory_bytes=1)
        if number == 2:
            log.info("a message in between")
            with monitor.pause():
                monitor.event(2, {"eval_loss": 1.5})
assert "torch" not in sys.modules
"""


def on_terminal(output: Path, columns: int, **environment: str) -> str:
    """What PROGRAM writes to a pseudo-terminal of that many columns."""
    import subprocess
    import sys

    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **environment}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(output)], stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_on_a_terminal_one_line_is_redrawn_and_messages_scroll_by_above_it(tmp_path: Path) -> None:
    shown = on_terminal(tmp_path, 120)
    assert "1/4 25%  loss 4.0000" in shown
    assert "\x1b[2K" in shown  # the line is cleared before it is drawn again
    assert "a message in between\r\n" in shown
    assert "step 2/4  eval_loss 1.5000\r\n" in shown
    assert "step 4/4" in shown.splitlines()[-1]  # what stays when the line is gone
    assert len(lines(tmp_path)) == 4


def test_no_color_is_honoured_and_the_live_line_has_no_colour_to_lose(tmp_path: Path) -> None:
    shown = on_terminal(tmp_path, 60, NO_COLOR="1")
    assert "\x1b[3" not in shown and "\x1b[1;3" not in shown


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    assert "\x1b" not in on_terminal(tmp_path, 80, TERM="dumb")
