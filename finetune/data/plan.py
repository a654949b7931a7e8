"""Which conversations form a step, and where in memory and on which rank they are computed.

Two questions, kept apart. *Which* depends on (number of conversations, seed, epoch, conversations_per_step)
alone. *Where* depends on lengths, world size and token budget, and changes the speed and nothing else.
Pure: no files, no clock, no random state; a plan built again after a crash is the same plan.

    conversations  --permutation(seed, epoch)-->  steps  --balance-->  ranks  --pack-->  micro-batches
"""

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF

MicroBatch = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: a set of conversations, and how the ranks share its examples.

    `supervised` counts the learnt tokens of the whole step, over all ranks; `weight` is what they count
    together, the same unless turns have weights of their own: what the summed loss is divided by.
    `ranks[r]` are rank r's micro-batches of example ids; an empty one is a forward of weight zero.
    """

    index: int
    epoch: int
    conversations: tuple[int, ...]
    supervised: int
    weight: float
    ranks: tuple[tuple[MicroBatch, ...], ...]

    def micro_batches(self, rank: int) -> tuple[MicroBatch, ...]:
        """What `rank` computes in this step, in order."""
        return self.ranks[rank]


class Plan:
    """The steps of a run, any of them computable without those before it.

    lengths, supervised: (examples,) int, tokens and supervised tokens of each example.
    weights: (examples,) what those count together; None: each token 1.
    seed: of the order of an epoch; None: conversations stay in the order of the data, in every epoch.
    first_example: (conversations + 1,) int, conversation c owns examples first_example[c]:first_example[c + 1].
    equal_micro_batches: every rank runs the same number of forwards (sharded parameters need it).
    """

    def __init__(
        self,
        lengths: NDArray[np.integer],
        supervised: NDArray[np.integer],
        first_example: NDArray[np.integer],
        conversations_per_step: int,
        seed: int | None,
        *,
        world_size: int = 1,
        tokens_per_micro_batch: int,
        equal_micro_batches: bool = False,
        weights: NDArray[np.integer] | NDArray[np.floating] | None = None,
    ) -> None:
        if min(conversations_per_step, world_size, tokens_per_micro_batch) < 1:
            raise ValueError("conversations_per_step, world_size and tokens_per_micro_batch are at least 1")
        if len(first_example) < 2:
            raise ValueError("a plan needs at least one conversation")
        if not len(lengths) == len(supervised) == int(first_example[-1]):
            raise ValueError("lengths, supervised and first_example count different examples")
        self.lengths = lengths
        self.supervised = supervised
        self.weights = supervised if weights is None else weights
        self.first_example = first_example
        self.conversations = len(first_example) - 1
        self.conversations_per_step = conversations_per_step
        self.seed = seed
        self.world_size = world_size
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.equal_micro_batches = equal_micro_batches

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every conversation once; the last may be smaller."""
        return -(-self.conversations // self.conversations_per_step)

    def total(self, max_steps: int | None, num_train_epochs: float) -> int:
        """Steps of the whole run: `max_steps` where it is positive, else the epochs rounded up to a step."""
        return steps_in(self.conversations, self.conversations_per_step, max_steps, num_train_epochs)

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Steps `start` (included) to `stop` (excluded) of the run, over as many epochs as that takes."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for index in range(start, stop):
            if index // self.steps_per_epoch != epoch:
                epoch = index // self.steps_per_epoch
                order = order_of(self.conversations, self.seed, epoch)
            first = index % self.steps_per_epoch * self.conversations_per_step
            yield self._step(index, epoch, order[first : first + self.conversations_per_step].tolist())

    def repack(self, step: Step, tokens_per_micro_batch: int) -> Step:
        """The same step in micro-batches of another size."""
        return self._step(step.index, step.epoch, list(step.conversations), tokens_per_micro_batch)

    def _step(self, index: int, epoch: int, conversations: list[int], max_tokens: int | None = None) -> Step:
        examples = self._examples(conversations)
        supervised = int(self.supervised[examples].sum(dtype=np.int64))
        weight = float(self.weights[examples].sum(dtype=np.float64))
        shares = balance(examples, self.lengths[examples].tolist(), self.world_size)
        budget = max_tokens or self.tokens_per_micro_batch
        ranks = [pack(share, self.lengths[share].tolist(), budget) for share in shares]
        # Every rank joins the gradient exchange, so every rank runs at least one forward and backward.
        rounds = max(len(rank) for rank in ranks) if self.equal_micro_batches else 1
        padded = tuple(tuple(rank) + ((),) * (rounds - len(rank)) for rank in ranks)
        return Step(index, epoch, tuple(conversations), supervised, weight, padded)

    def _examples(self, conversations: list[int]) -> list[int]:
        first, end = self.first_example[conversations], self.first_example[np.add(conversations, 1)]
        if int((end - first).max()) == 1:
            return first.tolist()  # type: ignore[no-any-return]
        pairs = zip(first.tolist(), end.tolist(), strict=True)
        return [example for low, high in pairs for example in range(low, high)]


def steps_in(
    conversations: int, conversations_per_step: int, max_steps: int | None, num_train_epochs: float
) -> int:
    """Steps of a run: `max_steps` where it is positive, else the epochs, whose last step may be smaller."""
    if max_steps is not None and max_steps > 0:
        return max_steps
    return max(1, math.ceil(num_train_epochs * -(-conversations // conversations_per_step)))


def order_of(count: int, seed: int | None, epoch: int) -> NDArray[np.int64]:
    """The order of `count` conversations in an epoch, (count,) int64; `seed` None: as they stand."""
    return np.arange(count, dtype=np.int64) if seed is None else permutation(count, seed, epoch)


def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of `count` conversations in an epoch, (count,) int64: a sort of their splitmix64 hashes.

    Not a numpy Generator: NumPy may change its streams between versions, and a resumed run must not notice.
    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """
    key = _mix(_mix(seed & _MASK) ^ (epoch & _MASK))
    hashes = np.arange(1, count + 1, dtype=np.uint64)
    hashes *= np.uint64(_GOLDEN)
    hashes += np.uint64(key)
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(_MIX_1)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(_MIX_2)
    hashes ^= hashes >> np.uint64(31)
    return np.argsort(hashes, kind="stable")


def _mix(value: int) -> int:
    """One splitmix64 output for the state `value`."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def balance(examples: Sequence[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Share examples among ranks, longest first to the rank with the fewest tokens.

    Loads of any two ranks differ by at most the longest example.
    """
    if ranks == 1:
        return [list(examples)]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for length, example in _longest_first(examples, lengths):
        load, rank = loads[0]
        shares[rank].append(example)
        heapq.heapreplace(loads, (load + length, rank))
    return shares


def pack(examples: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[MicroBatch]:
    """Pack whole examples into micro-batches of at most `max_tokens`, each into the fullest that holds it.

    An example longer than `max_tokens` stands alone. Fullest micro-batch first; no two would fit into one.
    """
    bins: list[list[int]] = []
    loads: list[int] = []
    fill: list[tuple[int, int]] = []  # (tokens, -bin) of every bin, sorted
    for length, example in _longest_first(examples, lengths):
        place = bisect_left(fill, (max_tokens - length + 1, -len(bins))) - 1
        if place < 0:
            number = len(bins)
            bins.append([example])
            loads.append(length)
        else:
            number = -fill.pop(place)[1]
            bins[number].append(example)
            loads[number] += length
        insort(fill, (loads[number], -number))
    return [tuple(bins[-negative]) for _, negative in reversed(fill)]


def _longest_first(examples: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(length, example) pairs, longest first, equal lengths by example id."""
    pairs = sorted(zip((-length for length in lengths), examples, strict=True))
    return [(-negative, example) for negative, example in pairs]
