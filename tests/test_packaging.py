"""What a wheel holds, and what the scripts do on a fresh and on a warm machine."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CARRIED = ("finetune", "configs", "scripts", "pyproject.toml", "constraints.txt", "README.md")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, so that a build never writes into the checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in CARRIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "built"]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    return zipfile.ZipFile(next((checkout / "built").glob("*.whl")))


def test_a_wheel_holds_every_shipped_config_within_the_package(wheel: zipfile.ZipFile) -> None:
    shipped = {f"finetune/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert shipped <= set(wheel.namelist())
    assert {"finetune/configs/lora.yaml", "finetune/configs/ds_zero_3.json"} <= shipped


def test_a_wheel_holds_the_constraints_that_doctor_reads(wheel: zipfile.ZipFile) -> None:
    assert "finetune/constraints.txt" in wheel.namelist()


def test_a_wheel_holds_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "finetune").rglob("*") if path.is_file()}
    wanted = {name for name in package if "__pycache__" not in name}
    found = {name for name in wheel.namelist() if name.startswith("finetune/")}
    assert wanted <= found
    extra = {name for name in found - wanted if not name.startswith("finetune/configs/")}
    assert extra == {"finetune/constraints.txt"}


def test_the_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "finetune = finetune.cli:main" in wheel.read(name).decode()


def bash(checkout: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run lines of bash that use scripts/venv.sh in a checkout."""
    text = f"set -euo pipefail; cd {checkout}; source scripts/venv.sh; {script}"
    environment = {**os.environ, **variables}
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def installed(checkout: Path) -> Path:
    """A checkout with a .venv whose pip only notes what it was asked for."""
    result = bash(checkout, "make_venv", PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    assert "making .venv with Python 3" in result.stderr
    for folder in (checkout / ".venv").glob("lib/python3*/site-packages/pip"):
        (folder / "__main__.py").write_text("import sys; print('pip', *sys.argv[1:])\n")
    return checkout


def pips(checkout: Path, script: str) -> list[str]:
    result = bash(checkout, script)
    assert result.returncode == 0, result.stderr
    return [line for line in result.stdout.splitlines() if line.startswith("pip")]


@pytest.mark.nightly
def test_the_scripts_install_only_when_something_changed(installed: Path) -> None:
    arguments = "install -qq --disable-pip-version-check -c constraints.txt -e"
    assert pips(installed, "install base") == [f"pip {arguments} ."]
    assert pips(installed, "install base") == []
    assert pips(installed, "install dev") == [f"pip {arguments} .[dev]"]
    assert pips(installed, "install dev; install base") == []
    with (installed / "constraints.txt").open("a") as file:
        file.write("# another day\n")
    assert pips(installed, "install dev") == [f"pip {arguments} .[dev]"]
    assert pips(installed, "install base") == []
    # What is installed for development lacks the tools that the benchmark compares with.
    assert pips(installed, "install bench; install bench") == [f"pip {arguments} .[bench]"]


@pytest.mark.nightly
def test_a_venv_that_stands_is_kept(installed: Path) -> None:
    assert bash(installed, "make_venv", PYTHON="/nowhere").returncode == 0


def test_a_copied_venv_is_made_anew(installed: Path, tmp_path: Path) -> None:
    for part in ("scripts", ".venv/bin"):
        shutil.copytree(installed / part, tmp_path / part, symlinks=True)
    assert bash(installed, "venv_stands").returncode == 0
    assert bash(tmp_path, "venv_stands").returncode == 1


def test_a_python_that_is_not_one_is_named(tmp_path: Path, checkout: Path) -> None:
    shutil.copytree(checkout / "scripts", tmp_path / "scripts")
    result = bash(tmp_path, "make_venv", PYTHON="/nowhere/python9")
    assert result.returncode == 1
    assert result.stderr == "error: PYTHON=/nowhere/python9 is not Python 3.11 or newer\n"


def test_a_machine_without_python_is_told_so(tmp_path: Path, checkout: Path) -> None:
    shutil.copytree(checkout / "scripts", tmp_path / "scripts")
    result = bash(tmp_path, "PATH=/nowhere; make_venv", PYTHON="")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no Python 3.11 or newer on the PATH; install one")


@pytest.mark.parametrize(
    "script", ["scripts/bench", "scripts/quickstart", "scripts/slurm-example.sh", "scripts/test", ".ci/run"]
)
def test_scripts_are_executable_and_are_bash(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert "set -euo pipefail" in path.read_text()
