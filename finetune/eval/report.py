"""What an evaluation found: scores with their signatures, and counts that add up."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Loss:
    """Cross-entropy over the tokens a model should have written, in nats per token.

    `weight`: what those tokens count together, where turns have weights of their own; None: each of them 1.
    """

    value: float
    tokens: int
    weight: float | None = None

    @classmethod
    def mean(cls, summed: float, weight: float, tokens: int) -> "Loss":
        """Of a weighted sum over `tokens` tokens that count `weight` together."""
        return cls(summed / weight, tokens, None if weight == tokens else weight)

    @property
    def counted(self) -> float:
        """What its tokens count together."""
        return self.tokens if self.weight is None else self.weight

    @property
    def perplexity(self) -> float:
        return math.exp(self.value) if self.value < 700 else math.inf


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `evaluate`.

    scores: means over the text turns (rouge 0–100, bleu-4 0–1), empty when there are none; `calls_right` of
    the `tool_calls` have the right name and arguments, `calls_accepted` are among the answers that the data
    accepts (equal to the reference where it names none; None where it never does). `skipped`: turns left out,
    by reason. `empty`: text turns the model answered with nothing; `unasked_calls`: those with a tool call;
    `cut_off`: answers that reached max_new_tokens without a stop.
    """

    scores: Mapping[str, float]
    signatures: Mapping[str, str]
    conversations: int
    text_turns: int
    tool_calls: int
    calls_parsed: int
    calls_named: int
    calls_right: int
    skipped: Mapping[str, int]
    empty: int
    unasked_calls: int
    cut_off: int
    loss: Loss | None = None
    calls_accepted: int | None = None

    @property
    def turns(self) -> int:
        """How many turns the model wrote."""
        return self.text_turns + self.tool_calls

    def with_loss(self, loss: Loss | None) -> "Report":
        return replace(self, loss=loss)

    def metrics(self) -> dict[str, float]:
        """One flat row of numbers, for metrics.jsonl and `metric_for_best_model`; tool shares from 0 to 1."""
        values = dict(self.scores)
        if self.tool_calls:
            values |= {f"tool_{name}": share / self.tool_calls for name, share in self._marks().items()}
        if self.loss is not None:
            values |= {"loss": self.loss.value, "perplexity": self.loss.perplexity}
        return values

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, for run.json. `bleu-4_x100` is bleu-4 on the scale of ROUGE."""
        scaled = {"bleu-4_x100": self.scores["bleu-4"] * 100} if "bleu-4" in self.scores else {}
        return {
            "scores": dict(self.scores),
            **scaled,
            "signatures": dict(self.signatures),
            "tool_calls": {"turns": self.tool_calls, **self._marks()},
            "loss": None if self.loss is None else self.loss.value,
            "perplexity": None if self.loss is None else self.loss.perplexity,
            "loss_tokens": None if self.loss is None else self.loss.tokens,
            "counts": {
                "conversations": self.conversations,
                "turns": self.turns,
                "text_turns": self.text_turns,
                "empty": self.empty,
                "unasked_calls": self.unasked_calls,
                "cut_off": self.cut_off,
                "skipped": dict(self.skipped),
            },
        }

    def lines(self) -> list[str]:
        """A table for the screen."""
        return [*self._score_lines(), *self._call_lines(), *self._loss_lines(), *self._count_lines()]

    def _marks(self) -> dict[str, int]:
        marks = {"parsed": self.calls_parsed, "name": self.calls_named, "arguments": self.calls_right}
        return marks if self.calls_accepted is None else {**marks, "accepted": self.calls_accepted}

    def _score_lines(self) -> list[str]:
        lines = []
        for name, value in self.scores.items():
            shown = f"{value:8.4f} = {value * 100:.2f} %" if name == "bleu-4" else f"{value:8.2f}"
            lines.append(f"{name:<16}{shown:<20}{self.signatures[name]}")
        return lines

    def _call_lines(self) -> list[str]:
        if not self.tool_calls:
            return []
        titles = {
            "parsed": "calls at all",
            "name": "name right",
            "arguments": "arguments right",
            "accepted": "accepted",
        }
        share = 100 / self.tool_calls
        return [
            f"{titles[mark]:<16}{share * count:8.2f} %{'':<10}{count} of {self.tool_calls} tool calls"
            for mark, count in self._marks().items()
        ]

    def _loss_lines(self) -> list[str]:
        if self.loss is None:
            return []
        note = f"nats per token over {self.loss.tokens} tokens of the references"
        return [
            f"{'loss':<16}{self.loss.value:8.4f}            {note}",
            f"{'perplexity':<16}{self.loss.perplexity:8.2f}",
        ]

    def _count_lines(self) -> list[str]:
        parts = [f"{self.turns} turns of {self.conversations} conversations"]
        parts += [f"{count} left out: {reason}" for reason, count in self.skipped.items()]
        for count, what in (
            (self.empty, "answered with nothing"),
            (self.unasked_calls, "answered with a tool call instead of text"),
            (self.cut_off, "cut off at max_new_tokens"),
        ):
            parts += [f"{count} {what}"] if count else []
        return ["; ".join(parts)]


def losses_together(losses: Sequence[Loss]) -> Loss:
    """Over the tokens of several files as if they were one."""
    if len(losses) == 1:
        return losses[0]
    summed = sum(loss.value * loss.counted for loss in losses)
    return Loss.mean(summed, sum(loss.counted for loss in losses), sum(loss.tokens for loss in losses))


def reports_together(reports: Sequence[Report]) -> Report:
    """Of several files as if they were one: means over all their turns. Without a loss."""
    if len(reports) == 1:
        return reports[0]
    text_turns = sum(report.text_turns for report in reports)
    names = dict.fromkeys(name for report in reports for name in report.scores)
    skipped = Counter[str]()
    for report in reports:
        skipped.update(report.skipped)
    return Report(
        scores={
            name: sum(report.scores.get(name, 0.0) * report.text_turns for report in reports) / text_turns
            for name in names
        },
        signatures={name: text for report in reports for name, text in report.signatures.items()},
        conversations=sum(report.conversations for report in reports),
        text_turns=text_turns,
        tool_calls=sum(report.tool_calls for report in reports),
        calls_parsed=sum(report.calls_parsed for report in reports),
        calls_named=sum(report.calls_named for report in reports),
        calls_right=sum(report.calls_right for report in reports),
        skipped=dict(skipped),
        empty=sum(report.empty for report in reports),
        unasked_calls=sum(report.unasked_calls for report in reports),
        cut_off=sum(report.cut_off for report in reports),
    )
