"""What a program sees: `import finetune`, in processes of its own, as docs/python.md says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"

ORDERS = {
    "at once": "import finetune; train = finetune.train",
    "from the package": "from finetune import train",
    "behind its module": "import finetune.train.run; from finetune import train",
    "before its module": "from finetune import train; import finetune.train.run",
}
PUBLIC = ["__version__", "check", "evaluate", "load_config", "load_engine", "load_template", "train"]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_train_is_the_function_whatever_was_imported_before(order: str, tmp_path: Path) -> None:
    ask = f"""
{order}
from finetune.errors import ConfigError
try:
    train({str(tmp_path)!r}, "nowhere", {{"trainin_args": {{}}}})
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert "trainin_args" in done.stdout and "training_args" in done.stdout


def test_the_package_says_what_it_has_and_loads_nothing_for_it() -> None:
    ask = "import sys, finetune; print(dir(finetune)); print([m for m in sys.modules if m[:5] == 'torch'])"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(PUBLIC), "[]"]
    assert (ROOT / "finetune" / "py.typed").is_file()


def test_a_program_does_what_the_page_says(small: Path, tmp_path: Path) -> None:
    for name in ("configs", "data_examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(small, tmp_path / "finetune-demo" / "base")
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "run.json").is_file()
    assert done.stdout.splitlines()[-1] == "0.0001"


def test_messages_that_are_no_conversation_are_refused_with_their_place(small: Path) -> None:
    from finetune import load_engine
    from finetune.errors import DataError

    with pytest.raises(DataError, match=r"messages:1:.*bot"):
        load_engine(small).chat([{"role": "bot", "content": "hello"}])
