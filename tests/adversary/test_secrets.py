"""A password or token is shown nowhere and kept nowhere, however it came in."""

import json
from pathlib import Path

import pytest

from finetune import log, redaction
from finetune.errors import DataError
from finetune.redaction import HIDDEN, learn, learn_command, learn_settings, redacted, without_secrets
from finetune.train.record import RunRecord
from tests.command import finetune

SECRET = "topsecretvalue9"
TEXTS = [
    f"--set training_args.hub_token={SECRET}: no such key",
    f"--hub-token {SECRET}",
    f"--api-key '{SECRET}'",
    f"training_args.api_key={SECRET}",
    f'{{"hub_token": "{SECRET}"}}',
    f"{{'password': '{SECRET}'}}",
    f"password: {SECRET}",
    f'hub_token: expected true, found the text "hf_{SECRET}"',
    f"https://me:{SECRET}@host/x.png: cannot be fetched",
    f"https://{SECRET}@host/repository",
    f"https://host/x.png?X-Amz-Signature={SECRET}&b=1: 403",
    f"https://host/x?token={SECRET}",
    f"https://host/x?a=1&sig={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"hf_{SECRET}",
    f"ghp_{SECRET}",
    f"eyJhbGciOiJIUzI1.eyJzdWIiOiIx{SECRET}.{SECRET}",
    f"WANDB_API_KEY={SECRET}",
]
HARMLESS = [
    "max_new_tokens=128",
    "pad_token=<|endoftext|>",
    "special token: <|user|>",
    "training_args.hub_token: no such key; leave it out",
    "c.yaml:3:1: training_args.hub_token: is not read here",
    "https://host/path?page=3",
    "train.jsonl:17: message 3 has role 'function'",
    "tokens=512, token_dim: 64",
    "ask@example.org",
]


@pytest.fixture(autouse=True)
def _nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_a_secret_is_hidden(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.info(text)
    log.failure(DataError(text))
    log.failure(ValueError(text))  # a defect: with its traceback
    told = capsys.readouterr().err + str(without_secrets({"error": text})) + redacted(text)
    assert SECRET not in told and HIDDEN in told


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_sounds_like_one_is_shown(text: str) -> None:
    assert redacted(text) == text


COMMANDS = [
    ["train", "--set", f"training_args.hub_token={SECRET}"],
    ["train", "--hub-token", SECRET],
    ["train", f"--hub-token={SECRET}"],
    ["train", "--set", f"x.password={SECRET} and more"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_kept_without_its_secrets_and_they_are_known_from_then_on(command: list[str]) -> None:
    assert SECRET not in str(without_secrets({"command": command}))
    learn_command(command)
    value = command[-1].rpartition("=")[2]
    assert SECRET not in redacted(f"in a text that does not tell: {value}!")


def test_secrets_of_settings_and_environment_are_known_too(monkeypatch: pytest.MonkeyPatch) -> None:
    learn_settings({"a": [{"api_key": SECRET}], "max_new_tokens": "1234567"})
    monkeypatch.setenv("SOME_API_KEY", "fromtheenvironment")
    learn_command([])
    assert redacted(f"{SECRET} fromtheenvironment 1234567") == f"{HIDDEN} {HIDDEN} 1234567"


@pytest.mark.parametrize("value", ["", "no", "true", 5, None])
def test_words_and_numbers_are_no_secrets_that_are_hidden_everywhere(value: object) -> None:
    learn("hub_token", value)
    assert redacted("no, it is true: 5") == "no, it is true: 5"


def test_run_json_has_no_secret_but_the_data_as_it_is(tmp_path: Path) -> None:
    preview = [{"pieces": [{"text": f"password: {SECRET}"}]}]
    command = ["finetune", "train", "--hub-token", SECRET, "--set", f"a.api_key={SECRET}"]
    with RunRecord(tmp_path, command=command, preview=preview, config={"a": {"api_key": SECRET}}) as record:
        record.note(error=f"https://me:{SECRET}@host")
    kept = json.loads((tmp_path / "run.json").read_text())
    assert kept.pop("preview") == preview
    assert SECRET not in json.dumps(kept)
    assert kept["command"][3] == HIDDEN


@pytest.mark.parametrize(
    "words",
    [
        ["--set", f"training_args.hub_token={SECRET}"],
        ["--set", f"training_args.hub_token={SECRET} with words"],
        ["--set", f"training_args.nothing.api_key={SECRET}"],
        ["--hub-token", SECRET],
        [f"--hub-token={SECRET}"],
    ],
    ids=" ".join,
)
def test_the_command_does_not_echo_what_it_refuses(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data_config: {train_file: a.jsonl}\n")
    done = finetune(["train", str(tmp_path), "m", str(tmp_path / "c.yaml"), *words], tmp_path, {})
    assert done.code == 2
    assert SECRET not in done.out + done.err
