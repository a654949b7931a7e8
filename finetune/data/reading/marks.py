"""Whether a turn is learnt, by the marks that tools for fine-tuning write beside it.

`false` or 0 means "context only", `true` or 1 "learn", whatever the name:
    train          ours; axolotl (as `message_field_training` names it: training, learn, …)
    loss           ms-swift, XTuner; on turns of users it is null
    loss_scale, loss_weight, weight    a factor: ms-swift; OpenAI. Here 0 or 1
    mask, masked   the other way round: true leaves the turn out of the loss (torchtune's Message)
"""

from finetune.chat.messages import Role
from finetune.data.reading.turn import Turn

LEARN = ("train", "training", "trainable", "learn", "loss", "loss_mask", "loss_scale", "loss_weight", "weight")
LEAVE_OUT = ("mask", "masked")
PARTS = "train_detail"
"""axolotl's marks for parts of a turn, by offsets of characters."""

MARKS = frozenset((*LEARN, *LEAVE_OUT, PARTS))


def is_learnt(turn: Turn, role: Role) -> bool:
    """Whether the turn is to be learnt. Raises WrongRecordError for marks that mean nothing, or two things."""
    if MARKS.isdisjoint(turn.fields):
        return True
    wishes = _wishes(turn)
    if role != "assistant":
        wishes.pop("loss", None)  # ms-swift reads it on assistant turns alone
    if len(set(wishes.values())) > 1:
        first, *_, last = wishes
        raise turn.wrong("E218", f": {first} and {last} contradict each other", last)
    if True in wishes.values() and role != "assistant":
        key = next(iter(wishes))
        raise turn.wrong("E215", f" ({role}) asks to be learnt; only the assistant's turns can be", key)
    return False not in wishes.values()


def _wishes(turn: Turn) -> dict[str, bool]:
    """What each mark of the turn asks for."""
    if PARTS in turn.fields:
        reason = f": {PARTS} learns parts of a turn, which is not done here; write train: true or false for all"
        raise turn.wrong("E218", reason, PARTS)
    learn = {key: _wish(turn, key) for key in LEARN if key in turn.fields}
    return learn | {key: not _flag(turn, key) for key in LEAVE_OUT if key in turn.fields}


def _wish(turn: Turn, key: str) -> bool:
    value = turn.fields[key]
    if value in (0, 1):
        return bool(value)
    reason = f": {key} is {value!r}; expected 0 or 1 (a turn is learnt or not)"
    raise turn.wrong("E217" if isinstance(value, float) else "E218", reason, key)


def _flag(turn: Turn, key: str) -> bool:
    """Only true and false: of `mask: 1`, some tools mean "learn" and others "leave out"."""
    value = turn.fields[key]
    if isinstance(value, bool):
        return value
    raise turn.wrong("E218", f": {key} is {value!r}; expected true (leave out) or false; or write train", key)
