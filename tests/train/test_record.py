"""run.json tells how a run was made, and none of the secrets that stood around it."""

from pathlib import Path

import pytest

from finetune.train.record import RunRecord


def test_nothing_of_the_environment_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_topsecretvalue")
    monkeypatch.setenv("WANDB_API_KEY", "another secret")
    with RunRecord(tmp_path, seed=1) as record:
        record.note(result={"steps": 1})
    written = (tmp_path / "run.json").read_text()
    assert '"steps": 1' in written
    for secret in ("HF_TOKEN", "hf_topsecretvalue", "WANDB_API_KEY", "another secret"):
        assert secret not in written
