"""What a run may decide for itself: tokens of a micro-batch, and layers that are computed a second time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from finetune.config.schema import Config
from finetune.estimate.machine import in_words
from finetune.estimate.memory import Memory, memory_of
from finetune.estimate.setup import Device, Setup
from finetune.estimate.work import Work

ENOUGH_TOKENS: Mapping[Device, int] = {"cpu": 2048, "cuda": 16384}
"""Of a micro-batch: with more, nothing becomes faster."""
_FEWEST_TOKENS = 256
_SHARE = 0.9
"""Of the free memory that an estimate may fill: it is right to a tenth."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`recompute`: the interval of layers; 0: none. `fits`: into what was free, by the estimate."""

    tokens: int
    recompute: int
    memory: Memory
    fits: bool


def fits(memory: Memory, free: int) -> bool:
    """Whether so much may be taken of what is free."""
    return memory.total <= _SHARE * free


def may_recompute(config: Config, setup: Setup) -> bool:
    """Whether layers may be recomputed unasked.

    A prefix gets no gradient through recomputed activations; ZeRO-3 recomputes in another way, for who asks.
    """
    stated = config.training_args.placement.gradient_checkpointing is not None
    return not stated and setup.method.kind != "prefix" and setup.sharing != "zero-3"


def choose(setup: Setup, work: Work, free: int, *, tokens: int | None, may_recompute: bool) -> Choice:
    """The largest micro-batches that fit into `free` bytes, else the fewest recomputed layers that make it fit.

    tokens: a budget that stands already; None: it may be chosen. may_recompute: whether layers may be
    recomputed that `setup` does not ask for. Where nothing fits: what needs least.
    """
    choice = None
    for variant, budget in _variants(
        setup, budgets(setup.device, work) if tokens is None else [tokens], may_recompute
    ):
        memory = memory_of(variant, work.load(budget))
        choice = Choice(budget, variant.recompute, memory, fits(memory, free))
        if choice.fits:
            break
    assert choice is not None
    return choice


def choose_setup(
    setup: Setup, work: Work, free: int, *, tokens: int | None, may_recompute: bool
) -> tuple[Setup, Choice]:
    """`choose`, and whether weights that are computed in float32 lie in memory as float32 or as stored.

    Stored ones are widened while they are used, which costs less than to compute layers a second time.
    """
    narrower = setup.by_layer
    if narrower is None:
        return setup, choose(setup, work, free, tokens=tokens, may_recompute=may_recompute)
    whole = choose(setup, work, free, tokens=tokens, may_recompute=False)
    if whole.fits:
        return setup, whole
    return narrower, choose(narrower, work, free, tokens=tokens, may_recompute=may_recompute)


def _variants(setup: Setup, sizes: list[int], may_recompute: bool) -> Iterator[tuple[Setup, int]]:
    """From what is fastest to what needs least."""
    yield from ((setup, size) for size in sizes)
    if may_recompute:
        yield from ((replace(setup, recompute=every), sizes[-1]) for every in intervals(setup.shape.layers))


def budgets(device: Device, work: Work) -> list[int]:
    """Tokens of a micro-batch worth trying, the largest first; each holds the longest example."""
    sizes, size = [], ENOUGH_TOKENS[device]
    while size >= _FEWEST_TOKENS:
        sizes.append(max(size, work.longest))
        size //= 2
    return list(dict.fromkeys(sizes))


def intervals(layers: int) -> list[int]:
    """Intervals of layers to recompute: from one layer of all to each of them, without repetitions."""
    by_count = {-(-layers // every): every for every in range(layers, 0, -1)}
    return list(by_count.values())


def told(setup: Setup, choice: Choice, free: int, *, chosen: bool) -> list[str]:
    """Lines for the screen: what was decided, with the figures. `chosen`: the tokens were."""
    needs, room = in_words(choice.memory.total), in_words(free)
    lines = (
        [f"tokens_per_micro_batch: {choice.tokens}; estimated memory {needs}, free {room}"] if chosen else []
    )
    if choice.recompute and not setup.recompute:
        layers = setup.shape.layers
        again = replace(setup, recompute=choice.recompute).recomputed_layers
        why = "fits" if choice.fits else "needs the least, and may not fit"
        lines.append(
            f"gradient_checkpointing: {again} of {layers} layers are computed a second time, which {why}: "
            f"estimated memory {needs}, free {room}"
        )
    elif not choice.fits:
        lines.append(
            f"estimated memory {needs}, free {room}: this may not fit; ask finetune estimate what would"
        )
    return lines
