"""The code that a model card shows, run."""

import re
from pathlib import Path

import pytest

_CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run_card(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the code on a card prints, run beside the model's folder, for short answers."""
    [code] = _CODE.findall(text)
    monkeypatch.chdir(folder.parent)
    capsys.readouterr()
    exec(compile(code.replace("max_new_tokens=256", "max_new_tokens=12"), "README.md", "exec"), {})
    return capsys.readouterr().out
