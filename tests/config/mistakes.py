"""How mistakes are met: `python -m tests.config.mistakes` counts those that are refused where they stand.

The table has every case of `mistake_kinds`; the tests take a sample of each kind.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.load import load_config
from finetune.errors import ConfigError
from tests.config.mistake_kinds import Case, every_case, pairs

AT_A_PLACE = re.compile(r"c\.yaml:\d+:\d+: ")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case. placed: one line at the place names the key; helped: and it says what is wanted."""

    said: str
    placed: bool
    helped: bool


def judge(case: Case, folder: Path) -> Verdict:
    """Load the file of a case from `folder`."""
    path = folder / "c.yaml"
    path.write_text(case.text, encoding="utf-8")
    try:
        load_config(path)
    except ConfigError as error:
        said = str(error).replace(f"{folder}/", "")
        at = f"c.yaml:{case.line}:{case.column}: {f'{case.key}: ' if case.key else ''}"
        lines = said.splitlines()
        here = [line for line in lines if line.startswith(at)]
        everywhere = all(map(AT_A_PLACE.match, lines))
        placed = len(here) == 1 and everywhere and error.exit_code == 2
        return Verdict(said, placed, placed and case.wanted in here[0])
    return Verdict("", False, False)


def refusal_of(config: dict[str, Any], folder: Path) -> list[str]:
    """The lines that a configuration is refused with; none if it is accepted."""
    path = folder / "c.yaml"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    try:
        load_config(path)
    except ConfigError as error:
        return str(error).replace(f"{folder}/", "").splitlines()
    return []


def table(cases: Iterable[Case], folder: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """(kind, cases, refused at the place, those with a right suggestion to give, that gave it)."""
    by_kind: dict[str, list[tuple[Case, Verdict]]] = {}
    for case in cases:
        by_kind.setdefault(case.kind, []).append((case, judge(case, folder)))
    for kind, judged in by_kind.items():
        placed = sum(verdict.placed for _, verdict in judged)
        asked = [verdict for case, verdict in judged if case.wanted]
        yield kind, len(judged), placed, len(asked), sum(verdict.helped for verdict in asked)


def show(rows: Sequence[tuple[str, int, int, int, int]]) -> str:
    lines = ["| kind | cases | refused where it stands | right suggestion |", "|---|--:|--:|--:|"]
    for kind, cases, placed, asked, helped in rows:
        share = f"{helped:,} of {asked:,} ({helped / asked:.1%})" if asked else ""
        lines.append(f"| {kind} | {cases:,} | {placed:,} | {share} |")
    total, refused = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return "\n".join([*lines, f"| all | {total:,} | {refused:,} | |"])


def show_pairs(folder: Path) -> str:
    refusals = [refusal_of(config, folder) for config in pairs()]
    refused = [lines for lines in refusals if lines]
    placed = sum(all(map(AT_A_PLACE.match, lines)) for lines in refused)
    accepted = len(refusals) - len(refused)
    told = f"{placed:,} of {len(refused):,} refused at a place"
    return f"pairs of options: {len(refusals):,}, {accepted:,} accepted, {told}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(show(list(table(every_case(), Path(place)))))
        print(f"\n{show_pairs(Path(place))}")
