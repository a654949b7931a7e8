"""Break a copy of the checkout on purpose, one way at a time, and see which test notices.

    python -m tests.mutants [NAME …] [--jobs N]

Prints the table of docs/mutants.md. Exit code 1: a mutant survived; 2: nothing could be told.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SECONDS = 600
"""For the tests of one mutant: after that it hangs, which nobody would overlook."""
ALL_SECONDS = 3600
"""For the tests of all of them, without a mutant."""


class CannotTellError(Exception):
    """The tests did not run as they should: no result would mean anything."""


@dataclass(frozen=True, slots=True)
class Result:
    """`noticed_by`: the first test that failed; None: the mutant survived."""

    mutant: Mutant
    noticed_by: str | None
    seconds: float

    def row(self) -> str:
        noticed = "**nobody**" if self.noticed_by is None else self.noticed_by.replace("|", "\\|")
        mutant = self.mutant
        return f"| {mutant.name} | {mutant.what} | `{mutant.file}` | {noticed} | {self.seconds:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the mutants to try; none: all")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried at once (default: 1)")
    arguments = parser.parse_args()
    try:
        results = try_all(chosen(arguments.names), arguments.jobs)
    except CannotTellError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(results))
    survivors = [result.mutant.name for result in results if result.noticed_by is None]
    print(
        f"{len(results)} mutants, {len(survivors)} survived: {', '.join(survivors) or 'none'}", file=sys.stderr
    )
    return 1 if survivors else 0


def chosen(names: Sequence[str]) -> list[Mutant]:
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        raise CannotTellError(f"no such mutant: {', '.join(sorted(unknown))}")
    return [mutant for mutant in MUTANTS if not names or mutant.name in names]


def table(results: Sequence[Result]) -> str:
    head = ["| mutant | what it does | file | noticed by | seconds |", "|---|---|---|---|---:|"]
    return "\n".join([*head, *(result.row() for result in results)])


def try_all(mutants: Sequence[Mutant], jobs: int = 1) -> list[Result]:
    """Try each; the tests that are to notice must be green without any. Raises CannotTellError."""
    with checkout_as_it_is() as original, ThreadPoolExecutor(jobs) as pool:
        with copied(original) as copy:
            tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
            if red := first_failure(copy, tests, ALL_SECONDS):
                raise CannotTellError(f"without any mutant: {red}")
        return list(pool.map(partial(attempt, original), mutants))


def attempt(original: Path, mutant: Mutant) -> Result:
    began = time.monotonic()
    with copied(original) as copy:
        mutant.apply(copy)
        noticed_by = first_failure(copy, mutant.tests, SECONDS)
    result = Result(mutant, noticed_by, time.monotonic() - began)
    print(result.row(), file=sys.stderr, flush=True)
    return result


@contextmanager
def checkout_as_it_is() -> Iterator[Path]:
    """A copy of the checkout, changes and new files included: who goes on working on it disturbs nothing."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="finetune-mutants-") as folder:
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
        yield Path(folder)


@contextmanager
def copied(original: Path) -> Iterator[Path]:
    """A fresh copy, to be broken: no bytecode of another text is in it."""
    with tempfile.TemporaryDirectory(prefix="finetune-mutant-", ignore_cleanup_errors=True) as folder:
        yield shutil.copytree(original, Path(folder).resolve() / "checkout")


def first_failure(copy: Path, tests: Sequence[str], seconds: float) -> str | None:
    """The first of `tests` that fails in the copy, or that they hang; None: all are green."""
    temporary = copy.with_name("tmp")
    temporary.mkdir()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    with (temporary / "said").open("w+") as said:  # not a pipe, which a child that is left over would keep open
        process = subprocess.Popen(
            [*command, "-p", "tests.mutants.inside", *tests],
            cwd=copy,
            env={
                **os.environ,
                "PYTHONPATH": str(copy),
                "TMPDIR": str(temporary),
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"a hang: no end after {seconds:g} s of {' '.join(tests)}"
        finally:
            with suppress(ProcessLookupError):  # what hangs or is left over ends with all its children
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return _failed_test(code, said.read())


def _failed_test(code: int, said: str) -> str | None:
    """Raises CannotTellError for all but green and red tests: one that cannot be collected notices nothing."""
    if code == 0:
        return None
    for line in said.splitlines():
        kind, _, rest = line.partition(" ")
        if code == 1 and kind in ("FAILED", "ERROR"):
            return rest.partition(" - ")[0]
    raise CannotTellError(f"pytest ended with {code}:\n{said[-4000:]}")


if __name__ == "__main__":
    sys.exit(main())
