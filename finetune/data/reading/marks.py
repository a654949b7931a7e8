"""Whether a turn is learnt, and how much, by the marks that tools for fine-tuning write beside it.

`false` or 0 means "context only", `true` or 1 "learn", whatever the name:
    train          ours; axolotl (as `message_field_training` names it: training, learn, …)
    loss           ms-swift, XTuner; on turns of users it is null
    loss_scale, loss_weight, weight    a factor: ms-swift; OpenAI (0 or 1 there, any number from 0 on here)
    mask, masked   the other way round: true leaves the turn out of the loss (torchtune's Message)
"""

from finetune.chat.messages import Role
from finetune.data.reading.turn import Turn

LEARN = ("train", "training", "trainable", "learn", "loss", "loss_mask", "loss_scale", "loss_weight", "weight")
FACTORS = ("loss_scale", "loss_weight", "weight")
MOST = 1000.0
"""Of a factor: as for a file of a mixture."""
LEAVE_OUT = ("mask", "masked")
PARTS = "train_detail"
"""axolotl's marks for parts of a turn, by offsets of characters."""

MARKS = frozenset((*LEARN, *LEAVE_OUT, PARTS))


def weight_of(turn: Turn, role: Role) -> float:
    """How much each token of the turn counts in the loss; 0: the turn is not learnt.

    Raises WrongRecordError for marks that mean nothing, or two things.
    """
    if MARKS.isdisjoint(turn.fields):
        return 1.0
    wishes = _wishes(turn)
    if role != "assistant":
        wishes.pop("loss", None)  # ms-swift reads it on assistant turns alone
    factors = {weight for weight in wishes.values() if weight not in (0, 1)}
    if len({weight > 0 for weight in wishes.values()}) > 1 or len(factors) > 1:
        first, *_, last = wishes
        raise turn.wrong("E218", f": {first} and {last} contradict each other", last)
    weight = next(iter(factors), min(wishes.values(), default=1.0))
    if weight and wishes and role != "assistant":
        key = next(iter(wishes))
        raise turn.wrong("E215", f" ({role}) asks to be learnt; only the assistant's turns can be", key)
    return weight


def _wishes(turn: Turn) -> dict[str, float]:
    """What each mark of the turn asks for: 0, 1, or a factor."""
    if PARTS in turn.fields:
        reason = f": {PARTS} learns parts of a turn, which is not done here; write train: true or false for all"
        raise turn.wrong("E218", reason, PARTS)
    learn = {
        key: _factor(turn, key) if key in FACTORS else _wish(turn, key) for key in LEARN if key in turn.fields
    }
    return learn | {key: float(not _flag(turn, key)) for key in LEAVE_OUT if key in turn.fields}


def _wish(turn: Turn, key: str) -> float:
    value = turn.fields[key]
    if value in (0, 1):
        return float(value)
    raise turn.wrong("E218", f": {key} is {value!r}; expected 0 or 1 (a turn is learnt or not)", key)


def _factor(turn: Turn, key: str) -> float:
    value = turn.fields[key]
    if isinstance(value, int | float) and 0 <= value <= MOST:
        return float(value)
    reason = f": {key} is {value!r}; expected a number from 0 (not learnt) to {MOST:g}, as a rule 1"
    raise turn.wrong("E217", reason, key)


def _flag(turn: Turn, key: str) -> bool:
    """Only true and false: of `mask: 1`, some tools mean "learn" and others "leave out"."""
    value = turn.fields[key]
    if isinstance(value, bool):
        return value
    raise turn.wrong("E218", f": {key} is {value!r}; expected true (leave out) or false; or write train", key)
