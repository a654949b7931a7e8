"""The planner's promises, on generated data sets."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.plan import Plan, Step, balance, pack, permutation


def make_plan(lengths, *, owns=None, per_step=4, seed=0, **options):
    """A plan where conversation c owns `owns[c]` examples (one each by default)."""
    lengths = np.array(lengths, dtype=np.int32)
    owns = [1] * len(lengths) if owns is None else owns
    first_example = np.concatenate([[0], np.cumsum(owns)]).astype(np.int64)
    options.setdefault("tokens_per_micro_batch", 100)
    return Plan(lengths, np.maximum(lengths // 4, 1), first_example, per_step, seed, **options)


def epoch_of(plan, epoch=0):
    start = epoch * plan.steps_per_epoch
    return list(plan.steps(start, start + plan.steps_per_epoch))


def ids(step: Step) -> list[int]:
    return [example for rank in step.ranks for micro_batch in rank for example in micro_batch]


data_sets = st.lists(st.integers(1, 150), min_size=1, max_size=60)
placements = st.fixed_dictionaries(
    {
        "world_size": st.integers(1, 8),
        "tokens_per_micro_batch": st.integers(1, 400),
        "equal_micro_batches": st.booleans(),
    }
)


@given(data_sets, st.integers(1, 20), st.integers(0, 2**40), placements)
def test_world_size_and_budget_change_where_never_which(lengths, per_step, seed, placement):
    reference = make_plan(lengths, per_step=per_step, seed=seed)
    placed = make_plan(lengths, per_step=per_step, seed=seed, **placement)
    for one, other in zip(epoch_of(reference, 2), epoch_of(placed, 2), strict=True):
        assert (one.conversations, one.weight, one.epoch) == (other.conversations, other.weight, other.epoch)
        assert sorted(ids(one)) == sorted(ids(other))


@given(data_sets, st.integers(1, 20), st.integers(0, 2**40))
def test_lengths_do_not_choose_the_conversations_of_a_step(lengths, per_step, seed):
    one = make_plan(lengths, per_step=per_step, seed=seed)
    other = make_plan([7] * len(lengths), per_step=per_step, seed=seed)
    assert [s.conversations for s in epoch_of(one)] == [s.conversations for s in epoch_of(other)]


@given(data_sets, st.integers(1, 20), placements, st.integers(0, 3))
def test_an_epoch_shows_every_conversation_once(lengths, per_step, placement, epoch):
    plan = make_plan(lengths, per_step=per_step, **placement)
    steps = epoch_of(plan, epoch)
    shown = [conversation for step in steps for conversation in step.conversations]
    assert sorted(shown) == list(range(len(lengths)))
    assert all(len(step.conversations) == per_step for step in steps[:-1])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(1, 6), placements)
def test_the_examples_of_a_conversation_are_computed_in_its_step(owns, per_step, placement):
    plan = make_plan(np.arange(1, sum(owns) + 1), owns=owns, per_step=per_step, **placement)
    for step in epoch_of(plan):
        owned = [e for c in step.conversations for e in range(plan.first_example[c], plan.first_example[c + 1])]
        assert sorted(ids(step)) == sorted(owned)


@given(data_sets, st.integers(1, 20), placements)
def test_weights_add_up_to_the_supervised_tokens_of_the_data_set(lengths, per_step, placement):
    plan = make_plan(lengths, per_step=per_step, **placement)
    steps = epoch_of(plan)
    assert sum(step.weight for step in steps) == int(plan.supervised.sum())
    assert all(step.weight == int(plan.supervised[ids(step)].sum()) for step in steps)


@given(data_sets, st.integers(1, 20), placements, st.integers(0, 30))
def test_a_resumed_plan_goes_on_as_the_uninterrupted_one(lengths, per_step, placement, start):
    stop = start + 9
    plan = make_plan(lengths, per_step=per_step, seed=3, **placement)
    rebuilt = make_plan(lengths, per_step=per_step, seed=3, **placement)
    assert list(plan.steps(0, stop))[start:] == list(rebuilt.steps(start, stop))


@given(data_sets, st.integers(1, 20), placements)
def test_no_micro_batch_exceeds_the_budget_unless_it_is_one_example(lengths, per_step, placement):
    plan = make_plan(lengths, per_step=per_step, **placement)
    for step in epoch_of(plan):
        for micro_batch in (batch for rank in step.ranks for batch in rank):
            tokens = int(plan.lengths[list(micro_batch)].sum())
            assert tokens <= plan.tokens_per_micro_batch or len(micro_batch) == 1


@given(data_sets, st.integers(1, 20), placements)
def test_every_rank_runs_and_ranks_run_equally_often_where_sharding_needs_it(lengths, per_step, placement):
    plan = make_plan(lengths, per_step=per_step, **placement)
    for step in epoch_of(plan):
        counts = [len(rank) for rank in step.ranks]
        assert len(counts) == plan.world_size and min(counts) >= 1
        if plan.equal_micro_batches:
            assert len(set(counts)) == 1


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 16))
def test_ranks_differ_by_at_most_the_longest_example(lengths, ranks):
    shares = balance(range(len(lengths)), lengths, ranks)
    loads = [sum(lengths[example] for example in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
    assert sorted(example for share in shares for example in share) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 400))
def test_no_two_micro_batches_would_fit_into_one(lengths, max_tokens):
    loads = sorted(sum(lengths[e] for e in batch) for batch in pack(range(len(lengths)), lengths, max_tokens))
    assert len(loads) < 2 or loads[0] + loads[1] > max_tokens


def test_packing_puts_each_example_into_the_fullest_micro_batch_that_holds_it():
    assert pack([10, 11, 12, 13, 14], [60, 50, 40, 30, 5], 100) == [(10, 12), (11, 13, 14)]


def test_an_example_longer_than_the_budget_stands_alone():
    assert pack([0, 1, 2], [50, 500, 50], 100) == [(1,), (0, 2)]


def test_micro_batches_are_at_most_one_more_than_needed_on_ordinary_lengths():
    lengths = permutation(4096, seed=1, epoch=0) % 400 + 20
    plan = make_plan(lengths, per_step=64, tokens_per_micro_batch=2048)
    for step in epoch_of(plan):
        tokens = int(plan.lengths[list(step.conversations)].sum())
        assert len(step.micro_batches(0)) <= math.ceil(tokens / 2048) + 1


def test_the_permutation_is_the_same_on_every_machine_and_version():
    assert permutation(16, seed=42, epoch=0).tolist() == [6, 2, 5, 11, 7, 0, 9, 4, 14, 15, 3, 10, 13, 8, 12, 1]
    assert permutation(10, seed=7, epoch=3).tolist() == [7, 2, 0, 9, 5, 3, 4, 8, 6, 1]
    assert permutation(6, seed=-1, epoch=0).tolist() == permutation(6, seed=2**64 - 1, epoch=0).tolist()


def test_the_permutation_agrees_with_splitmix64_written_out():
    mask = 2**64 - 1

    def splitmix(state):
        z = (state + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key = splitmix(splitmix(5) ^ 2)
    hashes = [splitmix((key + i * 0x9E3779B97F4A7C15) & mask) for i in range(1000)]
    assert permutation(1000, seed=5, epoch=2).tolist() == sorted(range(1000), key=hashes.__getitem__)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_every_place_is_equally_likely():
    places = np.array([permutation(8, seed=0, epoch=epoch) for epoch in range(4000)])
    counts = np.stack([np.bincount(places[:, place], minlength=8) for place in range(8)])
    assert abs(counts - 500).max() < 100  # more than four standard deviations


@pytest.mark.parametrize(
    ("max_steps", "epochs", "total"), [(7, 3.0, 7), (-1, 2.0, 6), (None, 0.5, 2), (0, 0.01, 1), (None, 1.1, 4)]
)
def test_max_steps_rules_over_epochs(max_steps, epochs, total):
    assert make_plan([5] * 9, per_step=3).total(max_steps, epochs) == total


@pytest.mark.parametrize("wrong", [{"per_step": 0}, {"world_size": 0}, {"tokens_per_micro_batch": 0}])
def test_counts_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        make_plan([5, 5], **wrong)


def test_a_plan_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one conversation"):
        make_plan([])


def test_a_hundred_thousand_rows_are_planned_in_a_second():
    lengths = permutation(100_000, seed=0, epoch=0) % 1000 + 24
    started = time.process_time()
    steps = epoch_of(make_plan(lengths, per_step=64, tokens_per_micro_batch=2048))
    assert len(steps) == 1563
    assert time.process_time() - started < 1.0


def test_a_plan_costs_less_than_a_hundred_bytes_a_row():
    import tracemalloc

    rows = 100_000
    tracemalloc.start()
    plan = make_plan(np.full(rows, 100, dtype=np.int32), per_step=64, tokens_per_micro_batch=2048)
    for _ in plan.steps(0, 3):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 100 * rows


def test_without_a_seed_the_order_of_the_data_is_kept_in_every_epoch():
    plan = Plan(
        np.full(5, 3),
        np.ones(5, dtype=int),
        np.arange(6),
        conversations_per_step=2,
        seed=None,
        tokens_per_micro_batch=9,
    )
    assert [step.conversations for step in plan.steps(0, 6)] == [(0, 1), (2, 3), (4,)] * 2
