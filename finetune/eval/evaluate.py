"""Held-out conversations to predictions to a Report.

Every assistant turn is a question of its own: its prompt is the conversation *before* it, its reference the
turn as the file has it.

Turns of text are scored by `metrics.score`; turns that are tool calls are marked as calls and counted apart.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from finetune import log
from finetune.chat.messages import Conversation, Message
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config
from finetune.data.dataset import Sample
from finetune.data.encode import Prompt, prompt_of
from finetune.data.reading.fields import WrongRecordError
from finetune.disk import encoded, write_atomically
from finetune.errors import DataError, TemplateError
from finetune.eval import metrics as m
from finetune.eval.accepted import why_wrong
from finetune.eval.report import Report
from finetune.infer.engine import AnswerNumber, Completion, Engine, Sampling
from finetune.infer.text import readable

Turns = Literal["all", "last"]


@dataclass(frozen=True, slots=True)
class Question:
    """One assistant turn to be written: message `number.turn` of the conversation at `origin` (file:line)."""

    origin: str
    number: AnswerNumber
    asked: Conversation
    prompt: Prompt
    reference: Message

    @property
    def turn(self) -> int:
        return self.number.turn

    @property
    def kind(self) -> str:
        return "tool_call" if self.reference.tool_calls else "text"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote for a question, and how right it is. `marks` None: the reference is text."""

    question: Question
    completion: Completion
    message: Message
    scores: Mapping[str, float]
    marks: m.CallMarks | None


def evaluate(
    engine: Engine,
    samples: Sequence[Sample],
    *,
    turns: Turns = "all",
    sampling: Sampling | None = None,
    batch_size: int = 1,
    metrics: Sequence[str] = m.ALL,
    max_input_length: int | None = None,
    predictions_path: Path | None = None,
) -> Report:
    """Let the model write the turns of `samples`, and compare.

    A turn is left out, and counted, whose prompt has more than `max_input_length` tokens, that opens its
    conversation, that says nothing, or that is a call of tools which the template's reader could not find in an
    answer. References count whole, however long. With `predictions_path`, one JSON line per turn is written
    there when all are done, or not at all.
    """
    questions, skipped = ask(engine.template, samples, turns=turns, max_input_length=max_input_length)
    prompts = [question.prompt for question in questions]
    numbers = [question.number for question in questions]
    completions = engine.generate(prompts, sampling or Sampling(), batch_size, numbers)
    with log.progress("scoring", len(questions)) as advance:
        answers = []
        for question, completion in zip(questions, completions, strict=True):
            answers.append(_judge(engine.template, question, completion, metrics))
            advance(1)
    if predictions_path is not None and answers:  # nothing must not take the place of something
        lines = (json.dumps(_row(engine.template, answer), ensure_ascii=False) for answer in answers)
        write_atomically(predictions_path, encoded("".join(f"{line}\n" for line in lines)))
    return _report(answers, len(samples), skipped, metrics)


def evaluate_under(
    config: Config,
    engine: Engine,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    predictions_path: Path | None,
) -> Report:
    """`evaluate` as a configuration says: turns, limits, metrics, and how answers are generated."""
    arguments = config.training_args
    generation = arguments.evaluation.generation_config.model_dump()
    return evaluate(
        engine,
        samples,
        turns=config.evaluation.turns,
        sampling=Sampling(**generation, seed=arguments.batches.seed),
        batch_size=batch_size,
        metrics=config.evaluation.metrics,
        max_input_length=config.max_input_length,
        predictions_path=predictions_path,
    )


def ask(
    template: ChatTemplate, samples: Sequence[Sample], *, turns: Turns, max_input_length: int | None
) -> tuple[list[Question], Counter[str]]:
    """The questions in `samples`, in order, and how many turns (or conversations) were left out, by reason."""
    questions, skipped = [], Counter[str]()
    with log.progress("prompts", len(samples)) as advance:
        for number, sample in enumerate(samples):
            outcomes = _outcomes(template, sample, number, turns, max_input_length)
            questions += [outcome for outcome in outcomes if isinstance(outcome, Question)]
            skipped.update(outcome for outcome in outcomes if isinstance(outcome, str))
            advance(1)
    return questions, skipped


def _outcomes(
    template: ChatTemplate, sample: Sample, number: int, turns: Turns, max_input_length: int | None
) -> list[Question | str]:
    """For each turn that counts its question, or the reason why it has none."""
    positions = _turns_of(sample.conversation, turns)
    if not positions:
        return ["no assistant turn"]
    return [_question(template, sample, AnswerNumber(number, turn), max_input_length) for turn in positions]


def _turns_of(conversation: Conversation, turns: Turns) -> list[int]:
    """The assistant turns that count: those a file marks as context only are nobody's question."""
    positions = [turn for turn in conversation.assistant_turns() if conversation.messages[turn].train]
    return positions[-1:] if turns == "last" else positions


def _question(
    template: ChatTemplate, sample: Sample, number: AnswerNumber, max_input_length: int | None
) -> Question | str:
    """The question, or why there is none."""
    turn = number.turn
    if turn == 0:
        return "opens its conversation"
    try:
        reference = template.settled(sample.conversation).messages[turn]  # as `parse` gives an answer
        if not reference.tool_calls and not reference.content.strip():
            return "empty reference"
        if reference.tool_calls and not template.reads_calls:
            return "tool call, which cannot be read back in this chat template's spelling"
        prompt = prompt_for(template, sample.conversation, turn)
    except TemplateError as error:
        raise TemplateError(f"{sample.origin}: message {turn + 1}: {error}") from error
    except WrongRecordError as wrong:
        raise DataError(f"{sample.origin}: {wrong.code} {wrong.reason}") from None
    if max_input_length is not None and len(prompt) > max_input_length:
        return "prompt too long"
    return Question(sample.origin, number, sample.conversation.before(turn), prompt, reference)


def prompt_for(template: ChatTemplate, conversation: Conversation, turn: int) -> Prompt:
    """What a model is asked with to write message `turn`."""
    return prompt_of(template, conversation.before(turn))


def _judge(
    template: ChatTemplate, question: Question, completion: Completion, metrics: Sequence[str]
) -> Answer:
    message = template.parse(completion.ids)
    if question.reference.tool_calls:
        return Answer(question, completion, message, {}, _marks(question, message))
    scores = m.score(message.content, question.reference.content, metrics)
    return Answer(question, completion, message, scores, None)


def _marks(question: Question, message: Message) -> m.CallMarks:
    reference = question.reference
    marks = m.call_marks(message.tool_calls, reference.tool_calls)
    if not reference.accepted:
        return marks
    schemas = {tool.name: tool.parameters for tool in question.asked.tools}
    return replace(marks, accepted=why_wrong(message.tool_calls, reference.accepted, schemas) is None)


def _row(template: ChatTemplate, answer: Answer) -> dict[str, Any]:
    """A line of predictions.jsonl."""
    question = answer.question
    return {
        "origin": question.origin,
        "turn": question.turn,
        "kind": question.kind,
        "prompt": template.prompt_text(question.asked),
        **({"images": images} if (images := [one.path for one in question.prompt.pictures]) else {}),
        "reference": readable(question.reference),
        "prediction": readable(answer.message),
        "finish": answer.completion.finish,
        "scores": dict(answer.scores),
        "tool_call": None if answer.marks is None else answer.marks.as_dict(),
    }


def _report(
    answers: Sequence[Answer], conversations: int, skipped: Mapping[str, int], metrics: Sequence[str]
) -> Report:
    text = [answer for answer in answers if answer.marks is None]
    marks = [answer.marks for answer in answers if answer.marks is not None]
    accepting = any(mark.accepted is not None for mark in marks)
    return Report(
        scores=m.mean([answer.scores for answer in text], metrics) if text else {},
        signatures=m.signatures(metrics) if text else {},
        conversations=conversations,
        text_turns=len(text),
        tool_calls=len(marks),
        calls_parsed=sum(mark.parsed for mark in marks),
        calls_named=sum(mark.name for mark in marks),
        calls_right=sum(mark.arguments for mark in marks),
        calls_accepted=sum(mark.right for mark in marks) if accepting else None,
        skipped=dict(skipped),
        empty=sum(not answer.message.content.strip() for answer in text),
        unasked_calls=sum(bool(answer.message.tool_calls) for answer in text),
        cut_off=sum(answer.completion.finish == "length" for answer in answers),
    )
