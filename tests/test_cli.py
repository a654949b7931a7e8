"""What a person meets at the terminal: exit codes, messages of one form, and never a traceback."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.cli import app, main
from finetune.train.run import train
from tests.train.conftest import LORA, PREFIX, Configure, rows

COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands if command.callback)


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said where."""

    code: int
    out: str
    err: str


Finetune = Callable[..., Said]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Finetune:
    """Run a command in this process, as the `finetune` script does."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as left:
            assert isinstance(left.code, int)
            code = left.code
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def place(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, model/, runs of one step in lora/, prefix/ and full/, and their YAMLs."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(small, folder / "model")
    (folder / "data").mkdir()
    for name, count in (("train.jsonl", 8), ("dev.jsonl", 3)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count)]
        (folder / "data" / name).write_text("".join(lines), encoding="utf-8")
    for name, peft in (("lora", LORA), ("prefix", PREFIX), ("full", None)):
        text = {"data_config": {"train_file": "train.jsonl"}} | ({"peft_config": peft} if peft else {})
        text["training_args"] = {"max_steps": 1, "output_dir": str(folder / name), "learning_rate": 0.01}
        (folder / f"{name}.yaml").write_text(json.dumps(text))
        train(folder / "data", str(folder / "model"), folder / f"{name}.yaml")
    return folder


def changed(model: Path, folder: Path, **fields: object) -> Path:
    """A copy of a model whose config.json says something else."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_version_is_the_package_s(cli: Finetune) -> None:
    assert cli("--version") == Said(0, f"finetune {finetune.__version__}\n", "")


def test_python_m_finetune_is_the_same_program() -> None:
    command = [sys.executable, "-m", "finetune", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True).stdout == f"finetune {finetune.__version__}\n"
    )


@pytest.mark.parametrize("command", [None, *("eval" if name == "evaluate" else name for name in COMMANDS)])
def test_help_is_there_for_everything_with_an_example(command: str | None, cli: Finetune) -> None:
    for option in ("--help", "-h"):
        said = cli(*([command] if command else []), option)
        assert (said.code, said.err) == (0, "")
        assert "Usage: finetune" in said.out
        assert command is None or f"Example: finetune {command}" in said.out


TABLE = Path(__file__).with_name("refused_commands.txt")


def refused() -> dict[str, tuple[int, str]]:
    """Command -> exit code and what is said, from the table."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    outcomes = [line.strip().partition(": ") for line in lines[1::2]]
    return {command: (int(code), said) for command, (code, _, said) in zip(lines[::2], outcomes, strict=True)}


@pytest.fixture(scope="module")
def spoilt(place: Path) -> Path:
    """The place, with models and files that cannot be used."""
    (place / "new.yaml").write_text((place / "lora.yaml").read_text().replace('/lora"', '/new"'))
    (place / "empty.jsonl").write_text("")
    mute, bare = (shutil.copytree(place / "model", place / name) for name in ("mute", "bare"))
    for file in mute.glob("tokenizer*"):
        file.unlink()
    (bare / "chat_template.jinja").unlink()
    changed(place / "model", place / "vision", model_type="clip")
    remote = {"AutoConfig": "configuration_chatglm.ChatGLMConfig"}
    changed(place / "model", place / "chatglm", model_type="chatglm", auto_map=remote)
    return place


def files_of(folder: Path) -> dict[str, int]:
    """Everything below a folder and when it changed; locks and runs that failed are left out."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and "/new/" not in str(path)
    }


@pytest.mark.parametrize("command", refused())
def test_a_mistake_is_told_with_its_exit_code_and_harms_nothing(
    command: str, spoilt: Path, cli: Finetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, message = refused()[command]
    before = files_of(spoilt)
    said = cli(*re.sub(r"(?<![\w'])\./", f"{spoilt}/", command).split())
    assert (said.code, said.out) == (code, "")
    assert re.search(message, said.err, re.DOTALL), said.err
    assert "error: " in said.err or "Usage: finetune" in said.err
    assert files_of(spoilt) == before
    assert not list(tmp_path.iterdir())


def test_no_command_at_all_gets_the_help(cli: Finetune) -> None:
    said = cli()
    assert said.code == 2
    assert all(f" {command} " in said.out + said.err for command in ("train", "eval", "merge", "doctor"))


def test_every_mistake_in_a_yaml_is_told_at_once_where_it_stands(place: Path, cli: Finetune) -> None:
    config = place / "wrong.yaml"
    config.write_text(
        "data_config: {train_file: tarin.jsonl}\n"
        "training_args: {lerning_rate: 1, max_steps: many, fp16: true}\n"
        "peft_config: {peft_type: ADALORA}\n"
    )
    said = cli("train", place / "data", place / "model", config)
    assert said.code == 2
    found = [line.removeprefix("error: ").removeprefix(f"{config}:") for line in said.err.splitlines()]
    assert [re.sub(": .*", "", line, count=1) for line in found] == ["1:27", "2:17", "2:45", "2:57", "3:26"]
    assert "did you mean train.jsonl?" in found[0]
    assert "did you mean learning_rate?" in found[1]
    config.unlink()


def test_a_mistake_in_a_yaml_does_not_wait_for_torch(place: Path) -> None:
    code = (
        "import sys; from finetune.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'peft' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "train", place / "data", place / "model", place / "none.yaml"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "False False\n"), result.stderr


def test_debug_shows_where_an_error_arose(place: Path) -> None:
    command = [sys.executable, "-m", "finetune", "--debug", "check", place / "nothing"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" in result.stderr and "check.py" in result.stderr


def test_results_go_to_stdout_and_all_else_to_stderr(place: Path, cli: Finetune, tmp_path: Path) -> None:
    trained = cli("train", place / "data", place / "model", place / "lora.yaml", "no")
    assert (trained.code, trained.out) == (0, f"{place / 'lora'}\n")
    assert "step 1/1" in trained.err
    answered = cli(
        "generate", place / "lora", place / "data" / "dev.jsonl", tmp_path / "o", "--max-new-tokens", 2
    )
    assert (answered.code, answered.out) == (0, f"{tmp_path / 'o'}: 3 new lines\n")
    spoken = cli("chat", place / "lora", "--message", "red", "--max-new-tokens", 2)
    assert spoken.code == 0
    assert f"model: {place / 'lora' / 'checkpoint-1'} (newest): an adapter on {place / 'model'}" in spoken.err
    scored = cli(
        "eval", place / "lora", place / "data" / "dev.jsonl", "--limit", 1, "--output", tmp_path / "scores"
    )
    assert scored.code == 0
    assert "rouge-l" in scored.out and "perplexity" in scored.out
    merged = cli("merge", place / "lora", tmp_path / "merged")
    assert merged.code == 0
    assert merged.out.endswith(f"merged model: {tmp_path / 'merged'}\n")
    checked = cli("check", place / "data" / "dev.jsonl", "--model", tmp_path / "merged")
    assert (checked.code, checked.err) == (0, "")


def test_a_bad_record_is_named_by_line_and_column(place: Path, cli: Finetune, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    good = json.dumps(rows(1)[0])
    bad.write_text(f'{good}\n{{"messages": [}}\n')
    checked = cli("check", bad)
    assert checked.code == 2
    assert f"{bad}:2:15: E104 not valid JSON" in checked.out
    trained = cli(
        "train", tmp_path, place / "model", place / "lora.yaml", "no", "--set", f"data_config.train_file={bad}"
    )
    assert trained.code == 2
    assert f"error: {bad}:2:15: E104 not valid JSON" in trained.err


def test_an_adapter_that_cannot_be_switched_off_says_so(
    small: Path, data: Path, configure: Configure, cli: Finetune
) -> None:
    biased: dict[str, Any] = LORA | {"bias": "all"}
    output = train(data, str(small), configure(biased, max_steps=1))
    said = cli("chat", output, "--vs-base", "--message", "red", "--max-new-tokens", "2")
    assert said.code == 2
    assert "cannot be switched off: bias: all trained the base's own biases" in said.err
