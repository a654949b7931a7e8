"""What became of every record: nothing is lost without a word.

Each record of a file has exactly one fate, and the ledger that counts the fates must add up to the rows that
were read.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from finetune.errors import InternalError

Fate = Literal["trained", "truncated", "too_long", "no_answer", "malformed"]
FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(slots=True)
class Ledger:
    """What became of a file's rows: each has one fate, or was not drawn (`limit`, `weight` of a mixture)."""

    rows: int = 0
    fates: dict[str, int] = field(default_factory=lambda: dict[str, int].fromkeys(FATES, 0))
    not_drawn: int = 0
    repeated: int = 0
    turns_left_out: int = 0

    def count(self, fate: Fate, by: int = 1) -> None:
        self.fates[fate] += by

    def check(self) -> None:
        """Raises InternalError if the fates do not add up to the rows."""
        accounted = sum(self.fates.values()) + self.not_drawn
        if accounted != self.rows:
            raise InternalError(f"the ledger accounts for {accounted} of {self.rows} rows")

    def plus(self, other: "Ledger") -> "Ledger":
        """Both together."""
        fates = {fate: count + other.fates[fate] for fate, count in self.fates.items()}
        return Ledger(
            self.rows + other.rows,
            fates,
            self.not_drawn + other.not_drawn,
            self.repeated + other.repeated,
            self.turns_left_out + other.turns_left_out,
        )

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        extra = {"not_drawn": self.not_drawn, "repeated": self.repeated, "turns_left_out": self.turns_left_out}
        return {"rows": self.rows, **self.fates, **extra}

    def lines(self) -> list[str]:
        """For the screen: the sum, then whatever else a person should know."""
        counts = [
            f"{self.fates[fate]:,} {_WORDS[fate]}" for fate in FATES if self.fates[fate] or fate == "trained"
        ]
        if self.not_drawn:
            counts.append(f"{self.not_drawn:,} left out by limit or weight")
        lines = [f"{self.rows:,} rows: {', '.join(counts)}"]
        if self.repeated:
            lines.append(f"{self.repeated:,} conversations more, repeated by weight")
        if self.turns_left_out:
            lines.append(
                f"{self.turns_left_out:,} assistant turns are context only (train_on: last, or cut off)"
            )
        return lines


_WORDS: dict[Fate, str] = {
    "trained": "trained",
    "truncated": "truncated",
    "too_long": "dropped: too long",
    "no_answer": "dropped: no answer to learn",
    "malformed": "dropped: malformed",
}


@dataclass(frozen=True, slots=True)
class FileAccount:
    """What run.json says of one data file."""

    file: str
    sha256: str
    format: str
    why: str
    ledger: Ledger
    remarks: tuple[str, ...] = ()
    """What a person should know: keys that nothing reads, …"""

    def as_dict(self) -> dict[str, Any]:
        ledger = self.ledger.as_dict()
        described = {"file": self.file, "sha256": self.sha256, "rows": self.ledger.rows}
        remarks = {"remarks": list(self.remarks)} if self.remarks else {}
        return {**described, "format": self.format, "why": self.why, "ledger": ledger, **remarks}
