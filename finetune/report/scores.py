"""Scores of the evaluation: base against tuned, each with what it means."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from finetune.report.markup import Html, element, join, table
from finetune.report.read import Json, number, section, words
from finetune.report.scale import figure

HEADLINES = ("rouge-l", "tool accepted", "tool arguments", "bleu-4", "loss")
"""The one score that stands among the key figures is the first of these that was taken."""


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of the base model and of the tuned one; None where it was not taken.

    `full`: the best possible value, None for one that has none (a loss, where lower is better).
    """

    name: str
    base: float | None
    tuned: float | None
    full: float | None
    meaning: str

    def show(self, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:.1f}" if self.full == 100 else f"{value:.3f}" if self.full == 1 else figure(value)

    def change(self) -> str:
        """From base to tuned, with its sign."""
        difference = (self.tuned or 0.0) - (self.base or 0.0)
        return f"{'+' if difference >= 0 else '−'}{self.show(abs(difference))}"

    def improved(self) -> bool | None:
        """None where there is nothing to compare, or no difference."""
        if self.base is None or self.tuned is None or self.base == self.tuned:
            return None
        return (self.tuned > self.base) == (self.full is not None)


def scores(run: Json) -> list[Score]:
    """Every metric taken of the base (`before`) and of the tuned model (`result.evaluation`)."""
    result = section(run, "result")
    base = section(run, "before")
    tuned = section(result, "evaluation")
    before, after = dict(_flat(base)), dict(_flat(tuned))
    signatures = {**section(base, "signatures"), **section(tuned, "signatures")}
    names = [*after, *(name for name in before if name not in after)]
    meanings = {name: words(signatures.get(name)) or _meaning(name) for name in names}
    found = [Score(name, before.get(name), after.get(name), full_marks(name), meanings[name]) for name in names]
    return found + _retained(section(run, "retain"))


def _retained(retain: Json) -> list[Score]:
    """The loss on a text that was not trained on: higher after than before where something was forgotten."""
    before, after = number(retain.get("loss_before")), number(retain.get("loss_after"))
    if before is None and after is None:
        return []
    file = PurePath(words(retain.get("file"))).name
    return [Score("retain loss", before, after, None, f"nats per token of {file}; higher: forgotten")]


def headline(run: Json) -> Score | None:
    found = {score.name: score for score in scores(run)}
    return next((found[name] for name in HEADLINES if name in found), None)


def full_marks(name: str) -> float | None:
    if name.startswith("bleu") and not name.endswith("x100"):
        return 1
    return None if name in ("loss", "perplexity") else 100


def _meaning(name: str) -> str:
    return {
        "loss": "nats per token of the references; lower is better",
        "perplexity": "e to the loss; lower is better",
        "tool parsed": "% of tool calls that can be read as one",
        "tool name": "% with the right function",
        "tool arguments": "% with the right function and equal arguments",
        "tool accepted": "% among the answers that the data accepts",
    }.get(name, "")


def _flat(evaluation: Json) -> Iterator[tuple[str, float]]:
    """Scores by name, from the form of an evaluation in run.json or from a plain mapping of numbers."""
    named = section(evaluation, "scores") or {k: v for k, v in evaluation.items() if k != "turns"}
    for name, raw in named.items():
        value = number(raw)
        if value is not None and name not in ("loss", "perplexity"):
            yield name.removeprefix("eval_"), value
    calls = section(evaluation, "tool_calls")
    turns = number(calls.get("turns"))
    for mark in ("parsed", "name", "arguments", "accepted") if turns else ():
        count = number(calls.get(mark))
        if count is not None and turns:
            yield f"tool {mark}", 100 * count / turns
    for name in ("loss", "perplexity"):
        value = number(evaluation.get(name))
        if value is not None:
            yield name, value


def scores_table(run: Json) -> Html | None:
    """One row per metric, with bars where the metric has a best value."""
    found = scores(run)
    if not found:
        return None
    compared = any(score.base is not None for score in found) and any(
        score.tuned is not None for score in found
    )
    head = ["metric", "base", "tuned", "change", "of the best possible", "what it is"]
    grid = table(head, [_row(score) for score in found], class_="scores")
    if compared:
        return grid
    note = "Only one of the two models was evaluated: there is nothing to compare."
    return join([element("p", note, class_="dim"), grid])


def _row(score: Score) -> list[Html]:
    return [
        element("th", score.name, scope="row"),
        element("td", score.show(score.base), class_="number"),
        element("td", element("b", score.show(score.tuned)), class_="number"),
        element("td", _change(score), class_="number"),
        element("td", _bars(score)),
        element("td", score.meaning, class_="dim small"),
    ]


def _change(score: Score) -> Html:
    if score.base is None or score.tuned is None:
        return element("span", "–", class_="dim")
    improved = score.improved()
    sign, told = {True: ("▲", "better"), False: ("▼", "worse"), None: ("", "the same")}[improved]
    return element("span", f"{sign} {score.change()}", class_=told.split()[-1], title=told)


def _bars(score: Score) -> Html | None:
    """Outlined: the base. Filled: the tuned model."""
    if score.full is None:
        return None
    bars = []
    for y, value, classes in ((1, score.base, "bar base"), (11, score.tuned, "bar tuned")):
        if value is not None:
            bars.append(
                element(
                    "rect", x=1, y=y, width=max(1.5, 158 * value / score.full), height=7, rx=2, class_=classes
                )
            )
    told = f"base {score.show(score.base)}, tuned {score.show(score.tuned)}, of {score.full:g}"
    return element("svg", element("title", told), bars, viewBox="0 0 160 19", width=160, height=19, role="img")
