"""How many processes `finetune train` starts, and what it refuses to start."""

from pathlib import Path

import pytest

from finetune.config.load import load_config
from finetune.config.schema import Config
from finetune.errors import ConfigError
from finetune.train.launcher import count_processes, visible_gpus
from tests.train.conftest import LORA, Configure


@pytest.fixture
def config(configure: Configure) -> Config:
    return load_config(configure(LORA))


@pytest.mark.parametrize(
    ("listed", "count"), [("0", 1), ("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-8932f937,GPU-1", 2), ("1, 2", 2)]
)
def test_visible_gpus_are_counted_without_touching_them(
    listed: str, count: int, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == count
    assert count_processes(config, None) == max(1, count)
    assert count_processes(config, 5) == 5


def test_a_run_on_the_cpu_starts_one_process(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert count_processes(load_config(configure(LORA, use_cpu=True)), None) == 1


def test_nothing_is_started_where_a_launcher_has_started_us(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert count_processes(config, None) == 1
    with pytest.raises(ConfigError, match="--nproc: another launcher has started this process"):
        count_processes(config, 2)


@pytest.mark.nightly  # for every change, test_deaths.py starts it on one such name
@pytest.mark.parametrize("folder", ["with space", "-n", "a;b"])
def test_odd_names_reach_the_processes_as_they_are(
    folder: str, small: Path, data: Path, tmp_path: Path, configure: Configure
) -> None:
    from finetune.train.launcher import launch

    odd = tmp_path / folder
    data.rename(odd)
    output = launch(odd, str(small), configure(LORA, max_steps=1), None, ["run.conversations_per_step=3"], 2)
    assert (output / "checkpoint-1" / "manifest.json").exists()
