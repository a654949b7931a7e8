"""Several validation files: each has its figures under its name, and all together theirs."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config.load import parse_config
from finetune.errors import ConfigError
from finetune.eval.report import Loss, losses_together
from finetune.train.run import rerun, train
from tests.train.conftest import LORA, Configure, rows

EVALUATES: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3}


@pytest.fixture
def files(data: Path) -> Path:
    """DATA_DIR with two more validation files: easy.jsonl (3 conversations) and hard.jsonl (5 others)."""
    for name, some in {"easy": rows(3), "hard": rows(12)[7:]}.items():
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return data


def evaluations(output: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "eval_loss" in line]


@pytest.mark.parametrize(
    ("spelt", "names"),
    [
        pytest.param("[easy.jsonl, hard.jsonl]", ["easy", "hard"], marks=pytest.mark.nightly),
        ("{simple: easy.jsonl, several words: hard.jsonl}", ["simple", "several words"]),
    ],
)
def test_each_file_has_its_loss_and_scores(
    spelt: str, names: list[str], small: Path, files: Path, configure: Configure
) -> None:
    config = configure(LORA, **EVALUATES, predict_with_generate=True)
    together = train(files, str(small), config, overrides=[f"data_config.val_file={spelt}"])
    found = evaluations(together)
    assert [line["step"] for line in found] == [3, 6]
    for name, file in zip(names, ["easy.jsonl", "hard.jsonl"], strict=True):
        alone = train(files, str(small), config, "no", overrides=[f"data_config.val_file={file}"])
        for line, single in zip(found, evaluations(alone), strict=True):
            assert line[f"eval_loss/{name}"] == single["eval_loss"]
            assert line[f"eval_rouge-l/{name}"] == single["eval_rouge-l"]
        together = train(files, str(small), config, "no", overrides=[f"data_config.val_file={spelt}"])
    run = json.loads((together / "run.json").read_text())
    validation = [(one["name"], one["rows"]) for one in run["data"] if one["split"] == "validation"]
    assert validation == [(names[0], 3), (names[1], 5)]
    page = (together / "report.html").read_text()
    assert "Evaluation: loss by file" in page and f"validation {names[1]}" in page


def test_the_loss_of_all_is_the_mean_over_all_tokens() -> None:
    assert losses_together([Loss(2.0, 30), Loss(1.0, 10)]) == Loss(1.75, 40)
    assert losses_together([Loss(0.1, 3)]) == Loss(0.1, 3)


def test_one_file_keeps_its_plain_names(small: Path, files: Path, configure: Configure) -> None:
    output = train(files, str(small), configure(LORA, **EVALUATES))
    assert all("/" not in name for line in evaluations(output) for name in line)


def test_the_best_checkpoint_may_go_by_one_file(small: Path, files: Path, configure: Configure) -> None:
    config = configure(
        LORA,
        **EVALUATES | {"eval_steps": 1, "save_steps": 1},
        metric_for_best_model="loss/hard",
        learning_rate=0.1,
    )
    output = train(files, str(small), config, overrides=["data_config.val_file=[easy.jsonl, hard.jsonl]"])
    result = json.loads((output / "run.json").read_text())["result"]
    losses = {line["step"]: line["eval_loss/hard"] for line in evaluations(output)}
    assert result["best_metric"] == min(losses.values())
    assert result["best_checkpoint"] == f"checkpoint-{min(losses, key=lambda step: losses[step])}"


def test_a_resume_with_other_validation_files_judges_anew(
    small: Path, files: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(LORA, **EVALUATES, metric_for_best_model="loss")
    both = "data_config.val_file={easy: easy.jsonl, hard: hard.jsonl}"
    train(files, str(small), config, overrides=[both])
    train(files, str(small), config, "3", overrides=[both])
    assert "judged anew" not in capsys.readouterr().err
    output = train(files, str(small), config, "3", overrides=["data_config.val_file=hard.jsonl"])
    assert "judged anew" in capsys.readouterr().err
    result = json.loads((output / "run.json").read_text())["result"]
    assert result["best_metric"] == evaluations(output)[-1]["eval_loss"]


def test_a_rerun_notices_that_one_of_them_changed(
    small: Path, files: Path, configure: Configure, tmp_path: Path
) -> None:
    output = train(
        files,
        str(small),
        configure(LORA, **EVALUATES),
        overrides=["data_config.val_file=[easy.jsonl, hard.jsonl]"],
    )
    (files / "hard.jsonl").write_text((files / "easy.jsonl").read_text())
    with pytest.raises(Exception, match=r"hard\.jsonl: has changed"):
        rerun(output, tmp_path / "again")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"val_file": ["a/dev.jsonl", "b/dev.jsonl"]}, "two of these files are called dev"),
        ({"val_file": {"a/b": "dev.jsonl"}}, "'a/b' cannot be a name in a metric"),
        ({"val_file": []}, "is empty"),
        ({"val_file": {"a": 3}}, "expected a text, found 3"),
    ],
)
def test_names_must_tell_the_files_apart(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"data_config": {"train_file": "train.jsonl", **wrong}}, "c.yaml", [])
