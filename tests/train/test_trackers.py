"""A tracker whose library is missing is told before training, with the pip line that brings it."""

import tomllib
from pathlib import Path

import pytest

from finetune.errors import ConfigError, MissingLibraryError
from finetune.train.monitor import trackers
from finetune.train.monitor.trackers import require_trackers

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "swanlab", "mlflow"])
@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_tracker_names_the_extra_that_holds_it(name: str) -> None:
    with pytest.raises(MissingLibraryError, match=rf"report_to: {name} needs {name}: pip install") as refused:
        require_trackers((name,))
    extra = str(refused.value).split("[")[1].split("]")[0]
    assert any(requirement.startswith(name) for requirement in EXTRAS[extra])


@pytest.mark.usefixtures("nothing_installed")
def test_a_tracker_of_no_extra_is_installed_by_its_name() -> None:
    with pytest.raises(ConfigError, match="comet_ml needs its library: pip install comet_ml"):
        require_trackers(("comet_ml",))


def test_all_means_those_that_are_there() -> None:
    require_trackers(())
    require_trackers(("all",))
