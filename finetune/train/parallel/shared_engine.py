"""Generation by all processes of a run: each answers its part, and all get all the answers."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager

from finetune import world
from finetune.chat.template import ChatTemplate
from finetune.data.encode import Prompt
from finetune.infer.engine import FIRST, AnswerNumber, Completion, Engine, Sampling, counted
from finetune.train.parallel import group


class SharedEngine:
    """An `Engine` over those of all processes, which ask it the same questions at the same time.

    `lockstep`: a forward needs every process, so all answer the same number of batches.
    """

    def __init__(self, engine: Engine, *, lockstep: bool) -> None:
        self._engine, self._lockstep = engine, lockstep

    @property
    def template(self) -> ChatTemplate:
        return self._engine.template

    @property
    def has_adapter(self) -> bool:
        return self._engine.has_adapter

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        batch_size: int = 1,
        numbers: Sequence[AnswerNumber] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in the order of the prompts; each is written by exactly one process."""
        # Dealt out longest first, so that the processes have about the same to do.
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        mine = order[world.rank() :: world.world_size()]
        asked = list(mine)
        if self._lockstep:
            most = -(-len(order) // world.world_size())
            asked += [order[-1]] * (most - len(mine))  # answered to keep step, and forgotten
        numbers = counted(prompts) if numbers is None else numbers
        written = self._engine.generate(
            [prompts[i] for i in asked], sampling, batch_size, [numbers[i] for i in asked]
        )[: len(mine)]
        done: dict[int, Completion] = {}
        for answers in group.gather(dict(zip(mine, written, strict=True))):
            done |= answers
        return [done[i] for i in range(len(prompts))]

    def stream(
        self, prompt: Prompt, sampling: Sampling, number: AnswerNumber = FIRST
    ) -> Generator[str, None, Completion]:
        return self._engine.stream(prompt, sampling, number)

    def without_adapter(self) -> AbstractContextManager[None]:
        return self._engine.without_adapter()
