"""Control tokens that trained text only spells: they are learnt as characters, and each is told once."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune.chat.messages import Conversation, KeyPath
from finetune.chat.template import ChatTemplate
from finetune.data.encode import Source
from finetune.data.reading.record import Malformed, Record


@dataclass(slots=True)
class Spelt:
    """Token -> how often trained text spells it, and the first place."""

    template: ChatTemplate
    found: dict[str, tuple[int, Malformed]] = field(default_factory=dict)

    def look_at(self, record: Record, source: Source) -> None:
        """Note what a good record's trained text spells."""
        if not isinstance(source, Conversation):
            self._note(record, source.text, ("text",))
            return
        if not any(self._spells(message.content) for message in source.messages):
            return
        # As it is rendered: `<think>` at the head of an answer is no text of it.
        for message in self.template.settled(source).messages:
            if message.role == "assistant" and message.train:
                self._note(record, message.content, (*message.at, "content"))

    def _spells(self, text: str) -> bool:
        return bool(self.template.spelt_in(text))

    def _note(self, record: Record, text: str, at: KeyPath) -> None:
        for token in self.template.spelt_in(text):
            count, first = self.found.get(token, (0, None))
            self.found[token] = count + 1, first or record.malformed("W532", token, at)

    def findings(self) -> Iterator[Malformed]:
        """One for each token, at its first place."""
        for token, (count, first) in self.found.items():
            often = "once" if count == 1 else f"{count:,} times"
            reason = f"the control token {token!r} is spelt in trained text, {often}, and learnt as characters"
            yield Malformed(first.source, first.line, first.column, f"{reason}; {_CURE}", "W532")


_CURE = "a token of your own becomes one id where data_config.special_tokens_in_text names it"
